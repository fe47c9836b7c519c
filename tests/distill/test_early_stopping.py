"""How long a training waits for an improvement."""

from __future__ import annotations

import itertools
import math

import pytest

from pipeline.distill.guards.early_stopping import Waiting

NAN = math.nan


def history(values: list[float], patience: int | None, min_delta: float = 0.0) -> list[Waiting]:
    steps = itertools.accumulate(values, lambda now, ce: now.after(ce, patience, min_delta), initial=Waiting())
    return list(steps)[1:]


@pytest.mark.parametrize(
    ("values", "patience", "min_delta", "counts", "stops_at"),
    [
        ([5, 4, 3, 2], 1, 0.0, [0, 0, 0, 0], None),
        ([5, 5, 5, 5], 3, 0.0, [0, 1, 2, 3], 3),
        ([5, 6, 4, 6, 6], 2, 0.0, [0, 1, 0, 1, 2], 4),
        ([5, 4.95, 4.85, 4.85], 2, 0.1, [0, 1, 0, 1], None),
        ([5, 4.97, 4.94, 4.91], 3, 0.1, [0, 1, 2, 3], 3),  # small gains that add up to less than one improvement
        ([5, NAN, math.inf], 2, 0.0, [0, 1, 2], 2),
        ([NAN, NAN, 5], 2, 0.0, [1, 2, 0], 1),
        ([5, 6, 6, 6], None, 0.0, [0, 1, 2, 3], None),
    ],
)
def test_counts_and_stops(
    values: list[float], patience: int | None, min_delta: float, counts: list[int], stops_at: int | None
) -> None:
    found = history(values, patience, min_delta)
    assert [waiting.evaluations for waiting in found] == counts
    first = next((index for index, waiting in enumerate(found) if waiting.stopped), None)
    assert first == stops_at


def test_state_comes_back_and_an_older_checkpoint_has_none() -> None:
    for waiting in history([5, 6, NAN], 2):
        assert Waiting.of({"waiting": waiting.state()}) == waiting
    assert Waiting.of({"step": 3}) == Waiting()
