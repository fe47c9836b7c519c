"""The order of the data and all of a training, restored at every step and compared with everything that follows.

An order is restored from under a thousand bytes by fresh processes of changing number, which share its steps and cut
their shares into micro-batches of changing size. A training is restored from the disk as its checkpoint of a step left
it; from there to its end every number it holds is the straight training's.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cache import TeacherCache
from pipeline.distill.batching.batches import Batch
from pipeline.distill.journal import Journal
from pipeline.distill.learner import Learner
from pipeline.distill.losses import LossParts
from tests.cache.dense import make_cache
from tests.reliability.orders import MOST_STATE_BYTES, Case, joined, order_state, processes, share_of
from tests.reliability.tally import LONG, Tally
from tests.stages.toys import Toy, copy, tree
from tests.stages.trainings import checkpoint, train

# ------------------------------------------------------------------ the order of the data

CASES_A_CHUNK, CHUNKS = (50, 20) if LONG else (20, 5)
ORDER_STEPS = 20  # of each order: half an epoch for a step of one sequence, ten for the largest
WORLDS = (1, 2, 3)  # processes; no more than a step has sequences, as in a training


@pytest.fixture(scope="module")
def shards(memory: Path) -> Path:
    """A cache of 18 shards to train on, the last shorter than the others, and two held out."""
    folder = memory / "shards"
    make_cache(folder / "cache", num_train=35, num_validation=4)
    return folder


def check_case(case: Case, shards: Path, pool: Any, tally: Tally) -> None:
    """Every step of an order is a point: from there on it is what a straight reading gives."""
    with TeacherCache.open(shards) as cache:
        plan_hash = cache.plan.hash
    settings, batch = case.settings, case.settings.batch_size * case.settings.accumulation
    folders = (str(shards), str(shards / f"difficulty-{settings.difficulty}"))
    straight = joined([share_of(case.state(0, plan_hash), *folders, 0, 1, batch, ORDER_STEPS)])
    assert {len(step) for step in straight} == {batch}
    assert len(straight) == ORDER_STEPS
    tasks, expected = [], []
    for step in range(ORDER_STEPS):
        state, world = case.state(step, plan_hash), min(batch, WORLDS[step % len(WORLDS)])
        assert len(state) < MOST_STATE_BYTES, len(state)
        rows = 1 + (step + case.number) % batch
        tasks.append([(state, *folders, rank, world, rows, ORDER_STEPS) for rank in range(world)])
        expected.append(straight[step:])
    shares = iter(pool.starmap(share_of, [task for group in tasks for task in group], chunksize=8))
    for step, group in enumerate(tasks):
        found = joined([next(shares) for _ in group])
        assert found == expected[step], (
            f"order {case.number} ({settings.data_order}), restored at step {step} by {len(group)} processes; alone: "
            f"check_case(Case.of({case.number}, cache), ...)"
        )
        tally.point(f"{settings.data_order} restored by {len(group)} processes")


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_an_order_goes_on_from_every_step_whoever_reads_it(chunk: int, shards: Path, tally: Tally) -> None:
    with TeacherCache.open(shards) as cache:
        cases = [Case.of(chunk * CASES_A_CHUNK + number, cache) for number in range(CASES_A_CHUNK)]
    with processes(2) as pool:
        for case in cases:
            check_case(case, shards, pool, tally)
    assert tally.points == ORDER_STEPS * CASES_A_CHUNK


# ------------------------------------------------------------------ the training

STEPS = 12
EVERY_STEP = ["train.checkpoint_every=1", "train.evaluate_every=3", f"train.steps={STEPS}"]
GPT2 = "student.config={model_type: gpt2, n_embd: 16, n_layer: 1, n_head: 2, n_positions: 64}"
TRAININGS: dict[str, list[str]] = {
    "plain": ["train.ema_decay=0"],
    "everything": [
        "train.balance=true", "train.router=learned", "train.rank_weight=0.3", "train.accumulation=2",
        "train.temperature={start: 3, end: 2}", "train.patience=9",
    ],
    "dropout": [GPT2],
    "easy_first": ["train.data_order=easy_first", "train.curriculum_levels=3"],
    "float16": ["train.dtype=float16", "train.router=trust"],
}  # fmt: skip
RESUMED = {name: range(1, STEPS + 1) for name in TRAININGS} if LONG else {
    "plain": [1], "everything": [4, 11], "dropout": [7], "easy_first": [2], "float16": [3],
}  # fmt: skip


class Watch:
    """Notes what every step of a training learns from, and after its checkpoint all that is held in memory; and may
    keep the disk as it is then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, snapshots: Path | None = None) -> None:
        self.held: dict[int, dict[str, str]] = {}
        self.sequences: list[list[int]] = []
        save, backward = Journal.save, Learner._backward

        def watched(journal: Journal, step: int, learner: Learner) -> None:
            save(journal, step, learner)
            self.sequences.append(self._taken)
            self._taken = []
            self.held[step] = held_by(journal, learner)
            if snapshots is not None:
                copy(journal.folder.parent, snapshots / str(step))

        def noted(learner: Learner, batch: Batch, *rest: Any) -> LossParts:
            self._taken += batch.sequences
            return backward(learner, batch, *rest)

        self._taken: list[int] = []
        monkeypatch.setattr(Journal, "save", watched)
        monkeypatch.setattr(Learner, "_backward", noted)


def held_by(journal: Journal, learner: Learner) -> dict[str, str]:
    """Name -> digest or text, of everything that changes while a training goes on."""
    named = {f"{group}: {name}": tensor for group, all_ in learner.tensors().items() for name, tensor in all_.items()}
    named["random numbers"] = torch.get_rng_state()
    digests = {
        name: f"{tensor.dtype} {hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()).hexdigest()}"
        for name, tensor in named.items()
    }
    rates = [
        {key: value for key, value in group.items() if key != "params"} for group in learner.optimizer.param_groups
    ]
    numbers = {"learner": learner.state(), "best": journal.best, "waiting": journal.waiting, "groups": rates}
    return digests | {name: repr(value) for name, value in numbers.items()}


def _options(name: str) -> list[str]:
    return [word for setting in EVERY_STEP + TRAININGS[name] for word in ("--set", setting)]


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_goes_on_from_every_step_with_all_it_held(
    name: str, toy: Toy, cached: Path, tmp_path: Path, tally: Tally
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        straight = Watch(patch, tmp_path / "snapshots")
        train(toy, cached, tmp_path / "straight", *_options(name))
    assert sorted(straight.held) == list(range(1, STEPS + 1))
    assert len({json.dumps(held, sort_keys=True) for held in straight.held.values()}) == STEPS, "each step changes it"
    assert straight.sequences == _order_of(tmp_path / "straight", cached, step=0)
    expected = _left_by(tmp_path / "straight")
    for step in RESUMED[name]:
        run_dir = copy(tmp_path / "snapshots" / str(step), tmp_path / f"from-{step}")
        with pytest.MonkeyPatch.context() as patch:
            resumed = Watch(patch)
            ended = train(toy, cached, run_dir, *_options(name))
        assert f"continuing after step {step}," in ended.stderr
        assert sorted(resumed.held) == list(range(step + 1, STEPS + 1))
        assert resumed.sequences == straight.sequences[step:] == _order_of(run_dir, cached, step)
        again = f"{name}, resumed after step {step}"
        for later, held in resumed.held.items():
            odd = [key for key in straight.held[later].keys() | held if straight.held[later].get(key) != held.get(key)]
            assert not odd, f"{again}: after step {later} these differ: {odd}"
        found = _left_by(run_dir)
        assert found == expected, f"{again}: {sorted(k for k in found | expected if found.get(k) != expected.get(k))}"
        tally.point(f"{name}: training resumed")
    assert tally.points == len(RESUMED[name])


def _order_of(run_dir: Path, cached: Path, step: int) -> list[list[int]]:
    """What the steps after `step` are to learn from, by the few bytes that a checkpoint keeps of it."""
    training = json.loads((checkpoint(run_dir, STEPS) / "state.json").read_text())["training"]
    state = order_state(step, training)
    assert len(state) < MOST_STATE_BYTES
    return joined([share_of(state, str(cached), str(run_dir / "student" / "difficulty"), 0, 1, 4, STEPS)])


def _left_by(run_dir: Path) -> dict[str, str]:
    """Hashes of all that a training leaves, but for how long it took."""
    return {name: digest for name, digest in tree(run_dir / "student").items() if name != "timings.jsonl"}
