"""When a training stops because it no longer gets better."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long a training has waited for its validation to improve; part of every checkpoint."""

    lowest_ce: float | None = None
    """nats; the cross-entropy an evaluation must be below, by `min_delta`, to count as an improvement"""
    evaluations: int = 0
    """since then"""
    stopped: bool = False
    """whether that was too long"""

    def after(self, ce: float, patience: int | None, min_delta: float) -> Self:
        """What an evaluation changes, given the cross-entropy of its better weights; one that is not finite does not
        improve. With `patience` None a training never stops, and the count is kept all the same."""
        if math.isfinite(ce) and (self.lowest_ce is None or ce < self.lowest_ce - min_delta):
            return type(self)(ce)
        evaluations = self.evaluations + 1
        return type(self)(self.lowest_ce, evaluations, patience is not None and evaluations >= patience)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, for `of`."""
        return asdict(self)

    @classmethod
    def of(cls, state: dict[str, Any]) -> Self:
        """From a checkpoint's state; one of before there was patience has waited for nothing."""
        return cls(**(state.get("waiting") or {}))
