"""What charts show: lines, levels and points with their colours, thinned so that a long training stays small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

MAX_POINTS = 400  # a longer line is averaged down to about this many points
_SMOOTH_WINDOW = 0.04  # of the line's length, on either side

Colour = Literal["ink", "muted", "grid", "teacher", "student", "second", "baseline", "extra", "rest", "card"]
Dash = Literal["solid", "dashed", "dotted"]


@dataclass(frozen=True, slots=True)
class Line:
    """One series over steps. `noisy` lines are drawn faint under their running mean."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: Colour = "student"
    dash: Dash = "solid"
    noisy: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line to compare with, such as the teacher's cross-entropy."""

    label: str
    value: float
    colour: Colour = "teacher"


@dataclass(frozen=True, slots=True)
class Point:
    """One model on a scale."""

    label: str
    value: float
    colour: Colour = "student"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A named value, and the ends it may lie between where they are known."""

    label: str
    value: float
    ends: tuple[float, float] | None = None
    colour: Colour = "student"


@dataclass(frozen=True, slots=True)
class Spot:
    """What something costs, a size above zero, and the estimate of what it is worth."""

    size: float
    worth: Estimate


@dataclass(frozen=True, slots=True)
class Band:
    """A quantity that is spread at every step: a tenth lies below `low`, half below `middle`, a tenth above `high`."""

    label: str
    x: Sequence[float]
    low: Sequence[float]
    middle: Sequence[float]
    high: Sequence[float]
    colour: Colour = "student"


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a legend, which the page sets as text."""

    label: str
    colour: Colour
    dash: Dash = "solid"


@dataclass(frozen=True, slots=True)
class Chart:
    """An SVG element and its legend."""

    svg: str
    keys: tuple[Key, ...] = ()


def thin(x: Sequence[float], y: Sequence[float], limit: int = MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most about `limit` points: means over equal runs of neighbours; non-finite values are left out."""
    x_N, y_N = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    finite_N = np.isfinite(y_N)
    x_N, y_N = x_N[finite_N], y_N[finite_N]
    if len(x_N) <= limit:
        return x_N, y_N
    starts = np.linspace(0, len(x_N), limit + 1).astype(int)[:-1]
    counts = np.diff(np.append(starts, len(x_N)))
    return np.add.reduceat(x_N, starts) / counts, np.add.reduceat(y_N, starts) / counts


def running_mean(y_N: np.ndarray) -> np.ndarray:
    """The mean over a window around each value, narrower at both ends."""
    half = max(1, round(_SMOOTH_WINDOW * len(y_N)))
    sums = np.concatenate(([0.0], np.cumsum(y_N)))
    index = np.arange(len(y_N))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(y_N))
    return np.asarray((sums[high] - sums[low]) / (high - low))
