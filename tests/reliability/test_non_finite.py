"""NaN and infinities at every place of a step: none reaches an optimizer, and the step is as if it had never been.

The reference is a run that leaves the step out. Its state afterwards, of weights, moments, averages, router and running
means, is that of the run which met the poison; only the counts differ.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline import console
from pipeline.cache import RecordLayout, TeacherCache
from pipeline.distill.batching.batches import Batch, load_batch
from pipeline.distill.learner import Learner
from pipeline.distill.optimization.ema import WeightAverage
from pipeline.distill.settings import TrainSettings
from pipeline.errors import NumericsError
from pipeline.models import CausalModel, Teacher
from tests import tiny
from tests.evaluation.caches import make_cache, make_sequences
from tests.reliability.kills import CAPTURE, sealed_shards, what_lasts
from tests.reliability.poisons import VALUES, Poison, clone, in_teacher, places, refuse_what_is_not_finite
from tests.reliability.tally import LONG, Tally
from tests.stages.toys import Toy, status
from tests.stages.trainings import STAGE, checkpoint, metrics, train, what_counts

CPU = torch.device("cpu")
STEPS = 4
POISONED_STEPS = range(STEPS) if LONG else [1]
ROWS = (0, -1) if LONG else (0,)
STEP_ROWS = [((5, 2), (4, 0)), ((1, 3), (5, 0)), ((4, 1), (2, 3)), ((0, 2), (3, 5))]
"""Sequences of the two micro-batches of each step"""
LEARNERS: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "plain": (torch.float32, {"clip_norm": 0}),
    "everything": (
        torch.float32,
        {"router": "learned", "rank_weight": 0.3, "balance": True, "temperature": {"start": 3, "end": 2}},
    ),
    "trust": (torch.bfloat16, {"router": "trust", "objective": "bucket"}),
    "float16": (torch.float16, {"router": "gap", "ema_decay": 0}),
}


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> list[list[Batch]]:
    """The two micro-batches of each step, some of whose positions are masked."""
    teacher = CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE)
    cache: TeacherCache = make_cache(tmp_path_factory.mktemp("cache"), teacher)
    return [[load_batch(cache, np.array(rows), CPU, with_records=True) for rows in step] for step in STEP_ROWS]


def make_learner(name: str) -> Learner:
    """A new learner of a kind, whose optimizers take nothing that is not finite."""
    dtype, changes = LEARNERS[name]
    settings = TrainSettings.model_validate({"steps": STEPS, "warmup_steps": 0} | changes)
    learner = Learner(CausalModel(tiny.make_model("llama", seed=1), tiny.VOCAB_SIZE), settings, STEPS, dtype)
    refuse_what_is_not_finite(learner)
    return learner


def learn(learner: Learner, step: int, batches: list[Batch]) -> Any:
    """One step."""
    return learner.learn(step, batches, sum(batch.num_scored for batch in batches))


def state_of(learner: Learner, with_scaler: bool) -> dict[str, Any]:
    """A copy of all that changes while it learns, but for the counts of skipped steps."""
    tensors = {f"{g}: {name}": t.clone() for g, named in learner.tensors().items() for name, t in named.items()}
    state = {key: value for key, value in learner.state().items() if "skipped" not in key}
    if not with_scaler:
        del state["scaler"]
    return tensors | {"numbers": copy.deepcopy(state)}


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what is not the same in both, bit for bit."""
    assert one.keys() == other.keys()
    return [
        name
        for name, value in one.items()
        if not (torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name])
    ]


def check(name: str, step: int, poison: Poison, batches: list[list[Batch]], without: dict[str, Any]) -> None:
    """One poison at one step; `without` is the state of a run that leaves the step out, `after` so many steps."""
    learner = make_learner(name)
    last = step + 1 if name == "float16" else STEPS  # a scaler that met an infinity scales less from there on
    for number in range(last):
        spoiled = [clone(batch) for batch in batches[number]]
        if number != step:
            assert learn(learner, number, spoiled).trouble is None
            continue
        with poison.at_work(learner, spoiled):
            result = learn(learner, number, spoiled)
        assert poison.reached, "its place was not reached"
        if poison.is_harmless(learner):
            assert not any((~t.isfinite()).any() for group in learner.tensors().values() for t in group.values())
            assert learner.skipped_steps == (result.trouble is not None)
            return
        assert result.skipped
        assert (learner.skipped_steps, learner.skipped_in_a_row) == (1, 1)
        assert result.trouble.sequences == poison.suspects(batches[number]), result.trouble
        expected = {"record": "records", "gradient": "gradient", "part": poison.which}.get(poison.kind, "loss")
        assert expected in result.trouble.what, result.trouble
    assert learner.skipped_steps == 1
    assert learner.skipped_in_a_row == (step == last - 1)
    odd = differing(state_of(learner, name != "float16"), without)
    assert not odd, f"not the state of a run without the step: {odd}"


@pytest.mark.parametrize("step", POISONED_STEPS)
@pytest.mark.parametrize("name", LEARNERS)
def test_a_step_that_meets_one_is_as_if_it_had_not_been(
    name: str, step: int, batches: list[list[Batch]], tally: Tally
) -> None:
    reference = make_learner(name)
    for number in range(step if name == "float16" else STEPS):
        if number != step:
            assert learn(reference, number, batches[number]).trouble is None
    without = state_of(reference, name != "float16")
    wanted = list(itertools.product(places(reference), VALUES.values(), ROWS))
    for (kind, which), value, row in wanted:
        if (kind, which) == ("gradient", "router") and step == 0:
            continue  # the gate studies nothing before there are losses to compare with
        poison = Poison(kind, which, value, row)
        console._said.clear()
        try:
            check(name, step, poison, batches, without)
        except AssertionError as error:
            raise AssertionError(f"{name}, step {step}, {poison.name}, row {row}: {error}") from error
        tally.point(f"{'harmless ' * poison.is_harmless(reference)}{poison.name}")
    assert tally.points >= len(wanted) - 3 * len(ROWS)


# ------------------------------------------------------------------ the teacher


LAYOUTS = {
    "topk": RecordLayout(tiny.VOCAB_SIZE, 16, 4),
    "whole": RecordLayout(tiny.VOCAB_SIZE, tiny.VOCAB_SIZE, 0),
    "compact": RecordLayout.for_vocabulary(tiny.VOCAB_SIZE, 16, 4, 0.7, "fine", "compact", 0.9),
    "sampled": RecordLayout.for_vocabulary(tiny.VOCAB_SIZE, 16, 16, 1.0, "fine", "sampled"),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_teachers_logits_are_refused_and_named(kind: str, tally: Tally) -> None:
    layout, sequences = LAYOUTS[kind], make_sequences()
    teacher = Teacher(CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE), layout, 0, 2, 8)
    wanted = list(itertools.product(VALUES.items(), (0, 3, 7), (0, -1), (0, 150, tiny.VOCAB_SIZE - 1)))
    for (name, value), call, row, column in wanted:
        again = f"{kind}: {name} in chunk {call}, row {row}, id {column}"
        with in_teacher(value, call, row, column) as found, pytest.raises(NumericsError) as refused:
            teacher.score(sequences, np.arange(sequences.num_sequences))
        assert len(found) == 1, again
        assert f"at 1 positions, such as {found[0]}" in str(refused.value), again
        tally.point(f"{name} in the logits of a teacher, {kind}")
    assert tally.points == len(wanted)


@pytest.mark.parametrize("value", VALUES)
def test_a_capture_seals_what_came_before_and_goes_on_from_there(
    value: str, toy: Toy, cached: Path, tmp_path: Path, tally: Tally
) -> None:
    for call in (2, 9, 17) if LONG else (9,):
        run_dir = tmp_path / f"run-{call}"
        with in_teacher(VALUES[value], call, 0, 5) as found:
            ended = toy.run(CAPTURE, run_dir)
        assert (ended.code, len(found)) == (1, 1), f"{value} in chunk {call}: {ended.stderr}"
        assert found[0] in ended.stderr
        assert status(run_dir)["state"] == "failed"
        whole = what_lasts(cached)
        sealed = sealed_shards(run_dir)
        assert {name for name in what_lasts(run_dir) if name.endswith(".shard")} - {"cache/sequences.shard"} == {
            f"cache/shards/{name}" for name in sealed
        }, "a shard without its seal is left"
        toy.ran(CAPTURE, run_dir)
        assert what_lasts(run_dir) == whole
        tally.point(f"{value} in a capture")


# ------------------------------------------------------------------ whole trainings


@contextmanager
def bad_from(step: int, poison: Poison) -> Iterator[list[int]]:
    """In the block every step from `step` (from 0) on meets the poison, in its only micro-batch; the steps that did."""
    real, met = Learner.learn, list[int]()

    def learn(learner: Learner, number: int, taken: Any, num_scored: int) -> Any:
        if number < step:
            return real(learner, number, taken, num_scored)
        found = [clone(batch) for batch in taken]
        halves = [part for batch in found for part in batch.split(2)]
        with poison.at_work(learner, halves):
            result = real(learner, number, halves, num_scored)
        met.append(number)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "learn", learn)
        yield met


ENDS = [("logits", "label"), ("gradient", "mlp"), ("part", "kd")]
KINDS_OF_END = list(itertools.product(VALUES, ENDS)) if LONG else list(zip(VALUES, ENDS, strict=True))


@pytest.mark.parametrize(("value", "place"), KINDS_OF_END, ids=lambda part: part if isinstance(part, str) else part[0])
def test_a_run_of_them_ends_at_a_good_checkpoint(
    value: str, place: tuple[str, str], toy: Toy, cached: Path, trained: Path, tmp_path: Path, tally: Tally
) -> None:
    run_dir, poison = tmp_path / "run", Poison(*place, VALUES[value])
    limit = ["--set", f"cache.roots=[{cached}]", "--set", "train.max_skipped_in_a_row=3"]
    with bad_from(5, poison) as met:
        ended = toy.run(STAGE, run_dir, *limit)
    assert met == [5, 6, 7]
    assert poison.reached
    assert ended.code == NumericsError.exit_code
    assert "step 8: the last 3 steps had losses or gradients that are not finite" in ended.stderr
    assert f"--fork-from {checkpoint(run_dir, 4)}" in ended.stderr
    assert status(run_dir)["state"] == "failed"
    lines = [line for line in metrics(run_dir) if line["kind"] == "skipped"]
    assert [(line["step"], line["skipped_in_a_row"]) for line in lines] == [(6, 1), (7, 2), (8, 3)]
    assert all(line["sequences"] for line in lines)
    for path in checkpoint(run_dir, 4).glob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values()), path
    train(toy, cached, run_dir)  # what was bad has gone: from there on it is the training it would have been
    assert what_counts(run_dir) == what_counts(trained)
    tally.point(f"{poison.name} until a training ends")


@pytest.mark.parametrize("value", VALUES)
def test_an_average_that_goes_bad_is_never_the_best_and_touches_nothing_else(
    value: str, toy: Toy, cached: Path, trained: Path, tmp_path: Path, tally: Tally
) -> None:
    update: Callable[..., None] = WeightAverage.update
    seen, unseen = "model.norm.weight", "model.embed_tokens.weight"  # of an id that no text has
    for bad, name in itertools.product((0, 5, 11) if LONG else (5,), (seen, unseen)):

        def spoiled(average: WeightAverage, model: Any, step: int, bad: int = bad, name: str = name) -> None:
            update(average, model, step)
            if step == bad:
                average._average[name].view(-1)[7] = VALUES[value]

        run_dir = tmp_path / f"run-{bad}-{name}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(WeightAverage, "update", spoiled)
            ended = train(toy, cached, run_dir)
        assert ("a validation gave numbers that are not finite" in ended.stderr) == (name == seen)
        assert ("the ema weights hold numbers that are not finite" in ended.stderr) == (name == unseen)
        for kept in ("weights", "optimizer"):
            files = [checkpoint(run, 12) / f"{kept}.safetensors" for run in (run_dir, trained)]
            assert files[0].read_bytes() == files[1].read_bytes(), kept
        averages = load_file(checkpoint(run_dir, 12) / "average.safetensors")
        assert sum(not tensor.isfinite().all() for tensor in averages.values()) == 1, "it was not reached"
        assert all(
            tensor.isfinite().all() for tensor in load_file(run_dir / "student/model/model.safetensors").values()
        )
        found = [line["ce"] for line in metrics(run_dir) if line["kind"] == "validation" and line["weights"] == "ema"]
        assert found.count(None) == (name == seen) * sum(done > bad for done in (6, 12)), found
        best = json.loads((checkpoint(run_dir, 12) / "state.json").read_text())["best"]
        assert best["weights"] == "raw" or best["step"] <= bad, best
        tally.point(f"{value} in an average, {'seen' if name == seen else 'not seen'} by a validation")
