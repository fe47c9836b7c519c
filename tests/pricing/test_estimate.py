"""From paces to hours and sessions, in round numbers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.distill.settings import TrainSettings
from pipeline.pricing.capture import CaptureProbe
from pipeline.pricing.estimate import FROM_PROBE, FROM_SEALS, CapturePrice, TextSize, TrainingPrice
from pipeline.pricing.memory import TrainingMemory
from pipeline.pricing.training import TrainingProbe

TEXT = TextSize(
    num_tokens=8_000_000,
    num_train_sequences=9_000,
    num_validation_sequences=1_000,
    sequence_length=800,
    basis="counted",
    bytes_per_token=2.0,
)
MEMORY = TrainingMemory(parameters=1, gradients=1, optimizer=2, average=1, head_chunk=1, peak=None)
PROBE = TrainingProbe(
    seconds_per_step=9.0,
    validation_seconds_per_batch=4.0,
    checkpoint_bytes=10,
    checkpoints_bytes=30,
    model_bytes=5,
    memory=MEMORY,
)


def capture(**changes: Any) -> CapturePrice:
    """Of 7.2 of 8 million tokens, at 100 a second."""
    probe = cast(CaptureProbe, SimpleNamespace(seconds_per_position=0.01))
    values: dict[str, Any] = {"tokens_left": 7_200_000, "sealed_bytes": 0, "probe": probe, "bytes_per_token": 50.0}
    return CapturePrice.of(TEXT, **(values | {"session_hours": 11.0, "sizes": (16, 512)} | changes))


def test_a_capture() -> None:
    price = capture()
    assert price.tokens_per_second == pytest.approx(100.0)
    assert price.hours == pytest.approx(20.0)
    assert (price.sessions, price.cards, price.bytes_basis) == (2, 1, FROM_PROBE)
    assert price.cache_bytes == 7_200_000 * 50 + 8_000_000 * 2
    assert (price.batch_size, price.chunk_positions) == (16, 512)


def test_two_cards_score_twice_as_much() -> None:
    price = capture(cards=2)
    assert price.tokens_per_second == pytest.approx(200.0)
    assert (price.hours, price.sessions) == (pytest.approx(10.0), 1)


def test_what_is_sealed_is_not_priced_again() -> None:
    price = capture(tokens_left=0, sealed_bytes=1000, probe=None, elsewhere_bytes=600)
    assert (price.tokens_per_second, price.hours, price.sessions) == (None, 0.0, 0)
    assert (price.bytes_basis, price.cache_bytes) == (FROM_SEALS, 1000 + 16_000_000)
    assert price.bytes_here == 400 + 16_000_000


def training(cards: int = 1, done: int = 0, session: float = 1.0, **changes: Any) -> TrainingPrice:
    """Of 1,000 steps of 4 x 8 sequences, validated 4 times on 100 sequences."""
    values = {"steps": 1000, "batch_size": 4, "accumulation": 8, "evaluate_every": 250, "validation_sequences": 100}
    settings = TrainSettings.model_validate(values | changes)
    return TrainingPrice.of(TEXT, settings, 1000, done, PROBE, session, cards)


def test_a_training() -> None:
    price = training()
    assert price.validation_hours == pytest.approx(4 * 25 * 4.0 / 3600)
    assert price.hours == pytest.approx((9_000 + 400) / 3600)
    assert price.tokens_per_second == pytest.approx(32 * 800 / 9.0)
    assert (price.sessions, price.steps_done, price.num_steps) == (3, 0, 1000)


def test_two_cards_share_each_step_and_one_validates() -> None:
    price = training(cards=2)
    assert price.seconds_per_step == pytest.approx(4.5)
    assert price.hours == pytest.approx((4_500 + 400) / 3600)
    assert (price.sessions, price.cards) == (2, 2)


def test_steps_that_are_done_are_not_priced_again() -> None:
    price = training(done=600)
    assert price.validation_hours == pytest.approx(2 * 25 * 4.0 / 3600), "after steps 750 and 1,000"
    assert price.hours == pytest.approx((3_600 + 200) / 3600)


def test_no_more_is_validated_on_than_there_is() -> None:
    few = replace(TEXT, num_validation_sequences=6)
    settings = TrainSettings.model_validate(
        {"steps": 1000, "batch_size": 4, "evaluate_every": 500, "validation_sequences": 100}
    )
    price = TrainingPrice.of(few, settings, 1000, 0, PROBE, 1.0)
    assert price.validation_hours == pytest.approx(2 * 2 * 4.0 / 3600)
