"""Magnitude-aware balance: each part's share of the loss is kept at its configured weight, however large the part is.

    w_k' = w_k·M / m_k,    M = Σ_j w_j·m_j / Σ_j w_j

m_k is the size of the running mean of part k, in nats and with its τ², over earlier steps. Then w_k'·m_k = w_k·M:
shares are as the weights are, within MOST and LEAST, and their sum is Σ_k w_k·m_k, as without balance. GradNorm (Chen
et al. 2018, arXiv:1711.02257) does this with norms of gradients, which would take a backward pass a part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pipeline.distill.settings import Part

MOST, LEAST = 10.0, 0.01
"""M/m_k, within which a weight is moved: a part that is nearly zero, as KD is of a student that has become its teacher,
would otherwise be all that is learned from, and its estimate's noise most of that"""

Name = TypeVar("Name", bound=str)


@dataclass(slots=True)
class RunningMeans(Generic[Name]):
    """Exponential means over steps by name, each step's number weighing (1 − decay)·decay^age over the sum of these.

    Numbers of the host alone, so that resuming from JSON is exact. A number that is not finite is passed over.
    """

    decay: float
    sums: dict[Name, float] = field(default_factory=dict)
    counts: dict[Name, int] = field(default_factory=dict)

    def observe(self, numbers: Mapping[Name, float]) -> None:
        """One step's numbers; a name may be absent from it."""
        for name, number in numbers.items():
            if math.isfinite(number):
                self.sums[name] = self.decay * self.sums.get(name, 0.0) + (1.0 - self.decay) * number
                self.counts[name] = self.counts.get(name, 0) + 1

    def get(self, name: Name, default: float = 1.0) -> float:
        """The mean so far, or `default` before the first number."""
        if name not in self.counts:
            return default
        return self.sums[name] / (1.0 - self.decay ** self.counts[name])

    def forget(self, name: Name) -> None:
        """As if nothing had been seen of `name`."""
        self.sums.pop(name, None)
        self.counts.pop(name, None)

    def __contains__(self, name: Name) -> bool:
        return name in self.counts

    def state(self) -> dict[str, Any]:
        """For a checkpoint's JSON."""
        return {"sums": dict(self.sums), "counts": dict(self.counts), "decay": self.decay}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave; of another decay, so that the means are what they were."""
        self.sums = {name: float(value) for name, value in state["sums"].items()}
        self.counts = {name: int(value) for name, value in state["counts"].items()}
        before = float(state.get("decay", self.decay))
        if before != self.decay:  # a sum weighs 1 − decay^count in all
            for name, count in self.counts.items():
                self.sums[name] *= (1.0 - self.decay**count) / (1.0 - before**count)


def balanced(weights: Mapping[Part, float], magnitudes: RunningMeans[Part]) -> dict[Part, float]:
    """w_k' of every part; one that has no weight, or no magnitude yet, keeps its weight and counts for nothing."""
    known = {part: abs(magnitudes.get(part)) for part, weight in weights.items() if weight > 0 and part in magnitudes}
    total = sum(weights[part] for part in known)
    middle = sum(weights[part] * known[part] for part in known) / total if total else 0.0
    if middle == 0 or len(known) < 2:
        return dict(weights)
    factors = {part: middle / max(size, middle / MOST) for part, size in known.items()}
    return {part: weight * max(factors.get(part, 1.0), LEAST) for part, weight in weights.items()}
