"""The temperature schedule."""

from __future__ import annotations

import pytest

from pipeline.distill.settings import TemperatureSettings
from pipeline.distill.weighting.temperature import temperature_at


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize(("start", "end"), [(3.0, 2.0), (1.0, 3.3), (1.7, 1.7)])
def test_exact_at_both_ends_and_monotone_between(shape: str, start: float, end: float) -> None:
    settings = TemperatureSettings(start=start, end=end, shape=shape)
    values = [temperature_at(step, 101, settings) for step in range(101)]
    assert (values[0], values[-1]) == (start, end)
    assert values == sorted(values, reverse=start > end)
    assert values[50] == pytest.approx((start + end) / 2)
    assert temperature_at(500, 101, settings) == end


def test_shapes_differ_a_quarter_of_the_way() -> None:
    linear = temperature_at(25, 101, TemperatureSettings(start=3, end=1, shape="linear"))
    cosine = temperature_at(25, 101, TemperatureSettings(start=3, end=1, shape="cosine"))
    assert linear == pytest.approx(2.5)
    assert cosine == pytest.approx(3 - 2 * (1 - 2**-0.5) / 2)


def test_a_constant_is_its_start_at_every_step() -> None:
    settings = TemperatureSettings(start=2.5, shape="constant")
    assert {temperature_at(step, 11, settings) for step in range(11)} == {2.5}


def test_trainings_of_one_and_two_steps() -> None:
    settings = TemperatureSettings(start=3, end=2)
    assert temperature_at(0, 1, settings) == 3
    assert [temperature_at(step, 2, settings) for step in range(2)] == [3, 2]
