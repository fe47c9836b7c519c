"""Which points a test does: its share of them all, or the one that is to be done again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from tests.reliability.tally import LONG

ONLY = os.environ.get("RELIABILITY_POINT")
SEED = 20260711
_Point = TypeVar("_Point")


@dataclass(frozen=True, slots=True)
class Share:
    """One of several equal parts of a suite, so that processes share it and a long run can stop in between."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number + 1}-of-{self.of}"

    def take(self, points: Iterable[_Point]) -> Iterator[_Point]:
        """Every n-th point of all; with RELIABILITY_POINT only that one."""
        for number, point in enumerate(points):
            if str(point) == ONLY if ONLY else number % self.of == self.number:
                yield point


def shares(number: int, of_long: int) -> list[Share]:
    """The parts of a suite, by the size of the run."""
    of = of_long if LONG else number
    return [Share(part, of) for part in range(of)]


def again(suite: str, point: object) -> str:
    """How to do one point again."""
    size = "RELIABILITY=long " if LONG else ""
    return f'{point} (seed {SEED}); again: {size}RELIABILITY_POINT="{point}" pytest tests/reliability/test_{suite}.py'
