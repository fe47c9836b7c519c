"""The learning-rate schedule."""

from __future__ import annotations

import pytest

from pipeline.distill.optimization.learning_rate import learning_rate_at
from pipeline.distill.settings import TrainSettings


def make_settings(warmup_steps: int) -> TrainSettings:
    return TrainSettings(steps=100, learning_rate=2e-3, warmup_steps=warmup_steps, final_learning_rate_ratio=0.1)


def test_warms_up_in_equal_steps_and_falls_to_the_ratio() -> None:
    values = [learning_rate_at(step, 100, make_settings(9)) for step in range(100)]
    rises = [after - before for before, after in zip([0.0, *values[:9]], values[:10], strict=True)]
    assert rises == pytest.approx([2e-4] * 10)
    assert max(values) == values[9] == 2e-3
    assert values[99] == pytest.approx(2e-4, rel=1e-12)
    assert values[54] == pytest.approx((2e-3 + 2e-4) / 2)
    assert values[9:] == sorted(values[9:], reverse=True)


def test_without_warm_up_the_first_step_is_the_peak() -> None:
    assert learning_rate_at(0, 100, make_settings(0)) == 2e-3


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11])
def test_short_trainings_are_positive_and_below_the_peak(steps: int) -> None:
    values = [learning_rate_at(step, steps, make_settings(9)) for step in range(steps)]
    assert all(0 < value <= 2e-3 for value in values)
