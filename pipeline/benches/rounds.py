"""Timing things beside each other: alternating rounds in one process, so that both sides see the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def alternate(sides: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of every side in every round.

    Each round runs all sides once, every other round in the reverse order, so that a machine that slows down or speeds
    up favours none. `warmup` rounds go before and are not counted. A side has done its work when it returns: one that
    uses a card waits for it.
    """
    if rounds < 1:
        raise ValueError(f"bench: rounds must be at least 1, found {rounds}")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-warmup, rounds):
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            started = time.perf_counter()
            sides[name]()
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median over rounds of one side's time over the other's in the same round."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))
