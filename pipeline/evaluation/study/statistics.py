"""Intervals of paired differences over a few seeds.

Student's t, two-sided 95 %: mean ± t(n−1)·s/√n. The share of a gain is a ratio of two paired means, and its interval is
Fieller's (1954, J. R. Statist. Soc. B 16, 175): every share ρ for which the mean of (numerator − ρ·denominator) is
within t standard errors of zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Z = 1.959963984540054
# t with 0.975 below it, for 1 to 12 degrees of freedom; beyond, the expansion is good to six digits.
_T = (12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139, 2.200985,
      2.178813)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and where it lies with 95 %; no ends where the seeds do not tell."""

    mean: float
    low: float | None = None
    high: float | None = None


def student_t(degrees: int) -> float:
    """t such that 95 % lie within ± t; Cornish and Fisher's expansion where the table ends (Abramowitz 26.7.5)."""
    if degrees <= len(_T):
        return _T[degrees - 1]
    z = _Z
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(sum(term / degrees**power for power, term in enumerate(terms)))


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of some values, one a seed; differences of two arms make it paired."""
    values_S = np.asarray(values, dtype=np.float64)
    if len(values_S) < 2:
        return Interval(float(values_S.mean()))
    half = student_t(len(values_S) - 1) * float(values_S.std(ddof=1)) / math.sqrt(len(values_S))
    mean = float(values_S.mean())
    return Interval(mean, mean - half, mean + half)


def ratio_interval(over: Sequence[float], under: Sequence[float]) -> Interval | None:
    """mean(over) / mean(under), paired; None where the lower one is zero, no ends where it cannot be told from zero."""
    a_S, b_S = np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64)
    a, b = float(a_S.mean()), float(b_S.mean())
    if b == 0.0:
        return None
    if len(a_S) < 2:
        return Interval(a / b)
    return Interval(a / b, *_fieller(a_S, b_S))


def _fieller(a_S: NDArray[np.float64], b_S: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """The ρ with (a − ρb)² <= t²·var(a − ρb)/n, a quadratic in ρ; none where it is not between two roots."""
    covariance_22 = np.cov(a_S, b_S, ddof=1) * student_t(len(a_S) - 1) ** 2 / len(a_S)
    a, b = float(a_S.mean()), float(b_S.mean())
    square = b * b - float(covariance_22[1, 1])
    middle = a * b - float(covariance_22[0, 1])
    constant = a * a - float(covariance_22[0, 0])
    inside = middle * middle - square * constant
    if square <= 0.0:
        return None, None
    root = math.sqrt(max(0.0, inside))
    return (middle - root) / square, (middle + root) / square
