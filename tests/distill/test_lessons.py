"""Which sequences a training validates on, and what it says of a schedule that cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.sequences import TRAIN
from pipeline.distill.batching.lessons import plan_lessons, spread
from pipeline.distill.batching.order import DataOrder
from pipeline.distill.settings import TrainSettings
from pipeline.errors import ConfigError, IncompleteInputError
from pipeline.models import CausalModel
from stages.config import load_run_config
from tests import tiny
from tests.evaluation.caches import NUM_TRAIN, NUM_VALIDATION, make_cache


@pytest.mark.parametrize(
    ("count", "expected"),
    [(None, [5, 6, 7, 8, 9, 10]), (99, [5, 6, 7, 8, 9, 10]), (3, [5, 7, 9]), (4, [5, 6, 8, 9]), (1, [5])],
)
def test_a_sample_of_sequences_is_spread_over_all_of_them(count: int | None, expected: list[int]) -> None:
    assert spread(np.arange(5, 11), count).tolist() == expected


def test_validation_is_spread_and_a_warm_up_without_end_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = make_cache(tmp_path, CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE))
    lessons = plan_lessons(cache, TrainSettings(steps=10, warmup_steps=10, validation_sequences=2), None)
    half = NUM_VALIDATION // 2
    assert lessons.validation_indices.tolist() == [NUM_TRAIN, NUM_TRAIN + half]
    assert "train.warmup_steps is 10 and this training has 10 steps" in capsys.readouterr().err


def test_validating_on_no_scored_label_is_refused(tmp_path: Path) -> None:
    """It would be a cross-entropy of nothing by nothing, the best there is."""
    cache = make_cache(tmp_path, CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE))
    cache.sequences.scored_counts[[NUM_TRAIN, NUM_TRAIN + NUM_VALIDATION // 2]] = 0  # as of chats without an answer
    settings = TrainSettings(steps=10, warmup_steps=0, validation_sequences=2)
    with pytest.raises(IncompleteInputError, match=r"found none in the 2 .* Raise train\.validation_sequences"):
        plan_lessons(cache, settings, None)
    plan_lessons(cache, settings.model_copy(update={"validation_sequences": 3}), None)


def test_a_step_larger_than_the_text_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = make_cache(tmp_path, CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE))
    lessons = plan_lessons(cache, TrainSettings(steps=2, warmup_steps=0, batch_size=NUM_TRAIN, accumulation=2), None)
    assert len(lessons.order.sequences_for_step(0)) == 2 * NUM_TRAIN
    assert f"a step takes {2 * NUM_TRAIN} sequences" in capsys.readouterr().err


def test_the_order_is_that_of_the_settings(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE))
    settings = TrainSettings(steps=9, warmup_steps=0, batch_size=2, accumulation=2, seed=7, window_shards=3)
    spans = [(span.first, span.count) for span in cache.sealed if span.split == TRAIN]
    found, expected = plan_lessons(cache, settings, None).order, DataOrder(spans, 7, 3, 4)
    steps = [expected.sequences_for_step(step).tolist() for step in range(9)]
    assert [found.sequences_for_step(step).tolist() for step in range(9)] == steps
    for other in (DataOrder(spans, 0, 3, 4), DataOrder(spans, 7, 1, 4)):
        assert [other.sequences_for_step(step).tolist() for step in range(9)] != steps, "it tells them apart"


@pytest.mark.parametrize("betas", ["[1.5, 2]", "[0.9, 1.0]", "[-0.1, 0.9]"])
def test_betas_that_average_nothing_are_refused(betas: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.adam_betas"):
        load_run_config("demo", (f"train.adam_betas={betas}",))
