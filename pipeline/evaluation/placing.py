"""Where names stand in a chart, so that none covers another or a spot, and few lie on a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# What a place costs, beside one for every better wish that it is not.
_COVERS, _LIES_ON = 1000.0, 20.0
_ROUNDS = 20

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle with its sides along the axes; y grows upward."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: Box) -> bool:
        """Whether both cover something; touching is not enough."""
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )

    def holds(self, other: Box) -> bool:
        """Whether nothing of the other sticks out."""
        return (
            self.left <= other.left
            and self.bottom <= other.bottom
            and other.right <= self.right
            and other.top <= self.top
        )

    def is_crossed(self, start: Point, end: Point) -> bool:
        """Whether the straight line between two points comes inside (Liang and Barsky's clipping)."""
        first, last = 0.0, 1.0
        for a, b, low, high in (
            (start[0], end[0], self.left, self.right),
            (start[1], end[1], self.bottom, self.top),
        ):
            if a == b:
                if not low < a < high:
                    return False
                continue
            enters, leaves = sorted(((low - a) / (b - a), (high - a) / (b - a)))
            first, last = max(first, enters), min(last, leaves)
        return first < last


@dataclass(frozen=True, slots=True)
class Place:
    """Where a name could stand; `lead` are the ends of a line that leads to it from afar."""

    box: Box
    lead: tuple[Point, Point] | None = None

    def covers(self, box: Box) -> bool:
        """Whether the name lies on a box, or its line comes through."""
        return self.box.meets(box) or (self.lead is not None and box.is_crossed(*self.lead))


def place(wishes: Sequence[Sequence[Place]], taken: Sequence[Box], lines: Sequence[Box]) -> list[int]:
    """For each name, which of its places it gets; `wishes` are in the order it would like them, and never empty.

    Nothing of `taken` and no other name is covered if that can be, and a name lies on `lines` only where the next free
    place is far. One name after another takes the place that costs least as those before it stand, then each in turn
    moves while that helps; so once from every name, and the best end counts.
    """
    fixed = [[rank + _cost_alone(each, taken, lines) for rank, each in enumerate(places)] for places in wishes]
    best, least = [0] * len(wishes), math.inf
    for first in range(len(wishes)):
        chosen = _settled(wishes, fixed, first)
        cost = sum(fixed[name][rank] for name, rank in chosen.items())
        standing = [wishes[name][rank] for name, rank in chosen.items()]
        cost += sum(_cost_among(each, standing[:index]) for index, each in enumerate(standing))
        if cost < least:
            best, least = [chosen[name] for name in range(len(wishes))], cost
        if least < _COVERS:
            break
    return best


def _settled(wishes: Sequence[Sequence[Place]], fixed: Sequence[Sequence[float]], first: int) -> dict[int, int]:
    """Name -> its place, begun with the name `first`; none would rather move."""
    chosen: dict[int, int] = {}
    for _ in range(_ROUNDS):
        before = dict(chosen)
        for name in (*range(first, len(wishes)), *range(first)):
            others = [wishes[other][rank] for other, rank in chosen.items() if other != name]
            costs = [fixed[name][rank] + _cost_among(each, others) for rank, each in enumerate(wishes[name])]
            chosen[name] = costs.index(min(costs))
        if chosen == before:
            break
    return chosen


def _cost_alone(each: Place, taken: Sequence[Box], lines: Sequence[Box]) -> float:
    return _COVERS * sum(map(each.covers, taken)) + _LIES_ON * sum(map(each.box.meets, lines))


def _cost_among(each: Place, others: Sequence[Place]) -> float:
    return _COVERS * sum(each.covers(other.box) or other.covers(each.box) for other in others)
