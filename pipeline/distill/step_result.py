"""What one optimizer step did, in numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Self

from torch import Tensor

from pipeline.distill.loss.routing import PARTS
from pipeline.distill.losses import LossParts
from pipeline.distill.optimization.gradient_norms import GROUPS, TOTAL, clipped
from pipeline.distill.weighting.loss_weights import StepWeights


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a step was skipped."""

    what: tuple[str, ...]
    """what was not finite, of: records, ce, kd, rank, loss, gradient"""
    sequences: tuple[int, ...]
    """numbers in the cache of the sequences it came from; where the gradient alone was not finite, all of the step"""

    def line(self) -> dict[str, Any]:
        """For the log."""
        return {"what": list(self.what), "sequences": list(self.sequences)}


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did; losses are means over its scored positions, in nats."""

    loss: float
    ce: float
    kd: float | None
    agreement: float | None
    effective_draws: float | None
    rank: float | None
    ce_weight: float
    kd_weight: float
    rank_weight: float
    routes: dict[str, float] | None
    """how a router's weights are spread over positions, as `route_ce_mean` and so on; None without a router"""
    temperature: float
    learning_rate: float
    gradient_norm: float
    """before clipping"""
    gradient_norm_clipped: float
    group_norms: dict[str, float]
    """before clipping, of the kinds of weights of gradient_norms.GROUPS"""
    num_positions: int
    trouble: Trouble | None
    """why the step was skipped; None where it was learned from"""

    @property
    def skipped(self) -> bool:
        """Whether weights, optimizer and average are as they were."""
        return self.trouble is not None

    def line(self) -> dict[str, Any]:
        """For the log."""
        line = asdict(self)
        for name in ("trouble", "group_norms", "routes"):
            del line[name]
        return line | {f"{TOTAL}_{group}": norm for group, norm in self.group_norms.items()} | (self.routes or {})

    def note(self, skipped_steps: int) -> str:
        """For the end of a progress line; each part of the loss with its weight."""
        found = [(part, getattr(self, part), getattr(self, f"{part}_weight")) for part in PARTS]
        losses = [f"{part} {nats:.3f} × {weight:.2g}" for part, nats, weight in found if nats is not None]
        parts = [f"loss {self.loss:.3f}", *(losses if len(losses) > 1 else [])]
        parts += [f"norm {self.gradient_norm:.2g}", f"lr {self.learning_rate:.1e}"]
        parts += [f"τ {self.temperature:.3g}"] * (self.kd is not None)
        parts += [] if self.effective_draws is None else [f"{self.effective_draws:.0f} draws"]
        return ", ".join(parts + [f"{skipped_steps:,} skipped"] * (skipped_steps > 0))

    @classmethod
    def of(
        cls,
        figures: dict[str, float],
        temperature: float,
        weights: StepWeights,
        learning_rate: float,
        clip_norm: float,
        num_positions: int,
        trouble: Trouble | None,
    ) -> Self:
        """From the sums of `add_up`, the figures of `LossWeights` and the gradients' norms, on the host."""

        def mean(name: str) -> float | None:
            return figures[name] / num_positions if name in figures else None

        return cls(
            loss=figures["loss"],
            ce=figures["ce"] / num_positions,
            kd=mean("kd"),
            agreement=mean("agreement"),
            effective_draws=mean("effective_draws"),
            rank=mean("rank"),
            ce_weight=weights.ce,
            kd_weight=weights.kd,
            rank_weight=weights.rank,
            routes={name: value for name, value in figures.items() if name.startswith("route_")} or None,
            temperature=temperature,
            learning_rate=learning_rate,
            gradient_norm=figures[TOTAL],
            gradient_norm_clipped=clipped(figures[TOTAL], clip_norm),
            group_norms={group: figures[key] for group in GROUPS if (key := f"{TOTAL}_{group}") in figures},
            num_positions=num_positions,
            trouble=trouble,
        )


def add_up(parts: Iterable[LossParts]) -> dict[str, Tensor]:
    """Loss, and sums over positions of what there is, over all micro-batches; on their device, without waiting."""
    sums: dict[str, Tensor] = {}
    for part in parts:
        scores = {"ce": part.ce_N, "kd": part.kd_N, "agreement": part.agreement_N}
        scores |= {"effective_draws": part.effective_draws_N, "rank": part.rank_N}
        found = {name: value_n.float().sum() for name, value_n in scores.items() if value_n is not None}
        for name, value in (found | {"loss": part.loss.detach()}).items():
            sums[name] = sums[name] + value if name in sums else value
    return sums
