"""Intervals against numbers worked out by hand, and against the density and the definition they come from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.evaluation.study.statistics import Interval, mean_interval, ratio_interval, student_t


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 12, 13, 14, 30, 100])
def test_student_t_leaves_95_percent_inside(degrees: int) -> None:
    # The density of t = √degrees·tan(u), integrated over u: cos^(degrees−1), on (−π/2, π/2).
    u_N = np.linspace(-math.pi / 2, math.pi / 2, 2_000_001)
    density_N = np.cos(u_N) ** (degrees - 1)
    inside_N = np.abs(u_N) <= math.atan(student_t(degrees) / math.sqrt(degrees))
    assert density_N[inside_N].sum() / density_N.sum() == pytest.approx(0.95, abs=2e-6)


def test_a_mean_of_three_by_hand() -> None:
    # Deviations −1, 0, 1: s = 1, the standard error 1/√3, t(2) = 4.302653.
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.mean == 2.0
    assert interval.low == pytest.approx(2.0 - 2.484138, abs=1e-6)
    assert interval.high == pytest.approx(2.0 + 2.484138, abs=1e-6)


def test_one_value_has_no_interval() -> None:
    assert mean_interval([3.0]) == Interval(3.0)
    assert ratio_interval([3.0], [2.0]) == Interval(1.5)


def test_equal_values_have_a_narrow_one() -> None:
    assert mean_interval([2.0, 2.0, 2.0]) == Interval(2.0, 2.0, 2.0)
    assert ratio_interval([1.0, 1.0], [2.0, 2.0]) == Interval(0.5, 0.5, 0.5)


def test_the_ends_of_a_ratio_are_where_its_residual_is_t_standard_errors_from_zero() -> None:
    over, under = np.array([0.51, 0.47, 0.52, 0.49, 0.50]), np.array([0.53, 0.50, 0.52, 0.51, 0.50])
    found = ratio_interval(over, under)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.mean < found.high
    assert found.mean == pytest.approx(over.mean() / under.mean())
    for end in (found.low, found.high):
        residual = over - end * under
        assert abs(residual.mean()) == pytest.approx(student_t(4) * residual.std(ddof=1) / math.sqrt(5), rel=1e-6)


def test_a_gain_that_cannot_be_told_from_zero_gives_no_ends() -> None:
    assert ratio_interval([1.0, 2.0], [0.1, -0.05]) == Interval(60.0)
    assert ratio_interval([1.0, 2.0], [0.5, -0.5]) is None
