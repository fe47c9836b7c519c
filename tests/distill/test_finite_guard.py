"""What is not finite never reaches the optimizer, whatever it is, and is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline import console
from pipeline.cache import TeacherCache
from pipeline.distill import learner as learner_module
from pipeline.distill.batching.batches import Batch, load_batch
from pipeline.distill.learner import Learner
from pipeline.distill.losses import LossParts
from pipeline.distill.settings import TrainSettings
from pipeline.distill.step_result import Trouble
from pipeline.models import CausalModel
from tests import tiny
from tests.evaluation.caches import make_cache

CPU = torch.device("cpu")
ROWS = ((5, 2), (7, 0))
"""numbers in the cache of the sequences of two micro-batches"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> TeacherCache:
    """A cache whose sequences all hold masked positions."""
    return make_cache(tmp_path_factory.mktemp("cache"), CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE))


@pytest.fixture
def batches(cache: TeacherCache) -> list[Batch]:
    return [load_batch(cache, np.array(rows), CPU, with_records=True) for rows in ROWS]


def make_learner(dtype: torch.dtype = torch.float32, **changes: object) -> Learner:
    settings = TrainSettings.model_validate({"steps": 10, "warmup_steps": 0, "ema_decay": 0.9} | changes)
    return Learner(CausalModel(tiny.make_model("llama", seed=1), tiny.VOCAB_SIZE), settings, 10, dtype)


def is_untouched(learner: Learner) -> bool:
    """Whether weights, average and optimizer are as a new learner's."""
    fresh = make_learner().tensors()
    found = learner.tensors()
    return found["optimizer"] == {} and all(
        torch.equal(tensor, found[name][key]) for name in ("weights", "average") for key, tensor in fresh[name].items()
    )


def learn(learner: Learner, batches: list[Batch]) -> Trouble | None:
    return learner.learn(0, batches, sum(batch.num_scored for batch in batches)).trouble


def change_parts(monkeypatch: pytest.MonkeyPatch, change: Callable[[LossParts], LossParts]) -> None:
    """Let the loss of every micro-batch but the first be another one."""
    real, calls = learner_module.distillation_loss, 0

    def changed(*args: object, **kwargs: object) -> LossParts:
        nonlocal calls
        calls += 1
        parts = real(*args, **kwargs)  # type: ignore[arg-type]
        return change(parts) if calls > 1 else parts

    monkeypatch.setattr(learner_module, "distillation_loss", changed)


def test_a_good_step_has_no_trouble(batches: list[Batch]) -> None:
    learner = make_learner()
    assert learn(learner, batches) is None
    assert not is_untouched(learner)


@pytest.mark.parametrize("router", ["uniform", "trust", "learned"])
@pytest.mark.parametrize("field", ["logprobs_NK", "tail_NR", "draw_logprobs_NM", "label_logprobs_N", "entropies_N"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_record_that_is_not_finite(field: str, value: float, router: str, batches: list[Batch]) -> None:
    scored_n, records = batches[1].scored_n, batches[1].records
    assert scored_n is not None
    assert records is not None
    length = batches[1].input_ids_BT.shape[1]
    values = getattr(records, field).view(len(records), -1)
    values[scored_n[scored_n >= length][0], 0] = value  # of its second sequence
    learner = make_learner(router=router)
    trouble = learn(learner, batches)
    assert trouble is not None
    assert trouble.what[0] == "records"
    assert trouble.sequences == (0,)
    assert is_untouched(learner)


def test_records_of_masked_positions_do_not_matter(batches: list[Batch]) -> None:
    records = batches[1].records
    assert records is not None
    masked_N = batches[1].weights_N == 0
    assert masked_N.any()
    records.logprobs_NK[masked_N] = math.nan
    assert learn(make_learner(), batches) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_loss_that_is_not_finite_though_its_gradient_is(
    dtype: torch.dtype, batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    change_parts(monkeypatch, lambda parts: replace(parts, loss=parts.loss + math.nan))
    learner = make_learner(dtype)
    scale = learner.scaler.get_scale()
    assert learn(learner, batches) == Trouble(("loss",), (0, 2, 5, 7))
    assert is_untouched(learner)
    assert learner.scaler.get_scale() == scale, "the gradients gave no reason to scale less"
    assert (learner.skipped_steps, learner.skipped_in_a_row) == (1, 1)
    monkeypatch.undo()
    assert learn(learner, batches) is None
    assert (learner.skipped_steps, learner.skipped_in_a_row) == (1, 0)


@pytest.mark.parametrize("part", ["ce", "kd"])
def test_a_part_that_is_not_finite_is_named_with_its_sequence(
    part: str, batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(parts: LossParts) -> LossParts:
        values_n = getattr(parts, f"{part}_N").clone()
        values_n[0] = math.inf
        return replace(parts, **{f"{part}_N": values_n})

    change_parts(monkeypatch, spoil)
    learner = make_learner()
    assert learn(learner, batches) == Trouble((part,), (7,))
    assert is_untouched(learner)


def test_a_gradient_alone_names_the_whole_step(batches: list[Batch]) -> None:
    learner = make_learner()
    next(learner.causal.model.parameters()).register_hook(lambda gradient: gradient * math.inf)
    assert learn(learner, batches) == Trouble(("gradient",), (0, 2, 5, 7))
    assert is_untouched(learner)


def test_a_gradient_that_overflows_scales_less_and_is_not_said(
    batches: list[Batch], capsys: pytest.CaptureFixture[str]
) -> None:
    learner = make_learner(torch.float16)
    handle = next(learner.causal.model.parameters()).register_hook(lambda gradient: gradient * math.inf)
    scale = learner.scaler.get_scale()
    assert learn(learner, batches) == Trouble(("gradient",), (0, 2, 5, 7))
    assert is_untouched(learner)
    assert learner.scaler.get_scale() == scale / 2
    assert "skipped" not in capsys.readouterr().err, "a scaler finds its scale so"
    handle.remove()
    assert learn(learner, batches) is None


def test_overflows_that_are_not_said_leave_room_for_what_is(
    batches: list[Batch], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console._said.clear()
    learner = make_learner(torch.float16)
    handle = next(learner.causal.model.parameters()).register_hook(lambda gradient: gradient * math.inf)
    for _ in range(4):
        assert learn(learner, batches) == Trouble(("gradient",), (0, 2, 5, 7))
    handle.remove()
    change_parts(monkeypatch, lambda parts: replace(parts, loss=parts.loss + math.nan))
    assert learn(learner, batches) == Trouble(("loss",), (0, 2, 5, 7))
    assert learner.skipped_steps == 5
    said = [line for line in capsys.readouterr().err.splitlines() if "skipped and counted" in line]
    assert said == ["note: step 1: loss not finite; it was skipped and counted. Sequences of the cache: 0, 2, 5, 7."]


def test_overflows_that_go_on_are_no_search_for_a_scale(
    batches: list[Batch], capsys: pytest.CaptureFixture[str]
) -> None:
    console._said.clear()
    learner = make_learner(torch.float16)
    next(learner.causal.model.parameters()).register_hook(lambda gradient: gradient * math.inf)
    for step in range(6):
        learner.learn(step, batches, sum(batch.num_scored for batch in batches))
    said = [line for line in capsys.readouterr().err.splitlines() if "skipped and counted" in line]
    assert [line.partition(":")[2].partition(";")[0] for line in said] == [
        f" step {number}: gradient not finite" for number in (5, 6)
    ]


def test_the_first_few_are_said_with_their_sequences(
    batches: list[Batch], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console._said.clear()
    change_parts(monkeypatch, lambda parts: replace(parts, loss=parts.loss + math.nan))
    learner = make_learner()
    for step in range(8):
        learner.learn(step, batches, sum(batch.num_scored for batch in batches))
    said = [line for line in capsys.readouterr().err.splitlines() if "skipped and counted" in line]
    assert len(said) == 5
    assert said[0] == "note: step 1: loss not finite; it was skipped and counted. Sequences of the cache: 0, 2, 5, 7."
    assert said[4].endswith("Further ones are in metrics.jsonl alone, as lines of the kind skipped.")


def test_labels_only_has_no_records_to_look_at(cache: TeacherCache) -> None:
    batch = load_batch(cache, np.array([3]), CPU, with_records=False)
    learner = make_learner(ce_weight=1.0, kd_weight=0.0)
    next(learner.causal.model.parameters()).register_hook(lambda gradient: gradient * math.nan)
    assert learn(learner, [batch]) == Trouble(("gradient",), (3,))
