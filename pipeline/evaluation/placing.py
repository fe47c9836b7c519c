"""Where names stand in a chart, so that none covers another, a spot or a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_COVERS = 1000.0  # what covering anything costs, beside its area in square units and one unit a worse wish
_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle with its sides along the axes; y grows upward."""

    left: float
    bottom: float
    right: float
    top: float

    def shared_area(self, other: Box) -> float:
        """Of what both cover; 0 where they only touch."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return width * height if width > 0 and height > 0 else 0.0

    def holds(self, other: Box) -> bool:
        """Whether nothing of the other sticks out."""
        return (
            self.left <= other.left
            and self.bottom <= other.bottom
            and other.right <= self.right
            and other.top <= self.top
        )


def place(wishes: Sequence[Sequence[Box]], taken: Sequence[Box]) -> list[int]:
    """For each name, which of its places it gets; `wishes` are in the order it would like them, and never empty.

    Every name takes in turn the place that costs least as the others stand, until none moves: what it covers of
    `taken` and of other names first, and how far down its list after that.
    """
    fixed = [[_cost(box, taken) + rank for rank, box in enumerate(boxes)] for boxes in wishes]
    chosen = [costs.index(min(costs)) for costs in fixed]
    for _ in range(_ROUNDS):
        before = list(chosen)
        for name, boxes in enumerate(wishes):
            others = [wishes[other][chosen[other]] for other in range(len(wishes)) if other != name]
            costs = [fixed[name][rank] + _cost(box, others) for rank, box in enumerate(boxes)]
            chosen[name] = costs.index(min(costs))
        if chosen == before:
            break
    return chosen


def _cost(box: Box, others: Sequence[Box]) -> float:
    return sum(_COVERS + area for other in others if (area := box.shared_area(other)) > 0)
