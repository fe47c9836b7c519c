"""The weights of the loss at each step: their schedule, the balance of magnitudes, and the router.

    w_k(step)   a ramp from train.{ce,kd,rank}_weight to train.{ce,kd,rank}_weight_end, a pure function of the step
    w_k'        the same balanced by the magnitudes of earlier steps, where train.balance is on
    r_nk        what the router gives each position, over the means of earlier steps

All that is learned comes from earlier steps that were not skipped, and is in the checkpoint, so a resumed training
goes on as a straight one. Running means are numbers of the host, made from those that travel with the one transfer of a
step; the gate's parameters stay on the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from pipeline.distill.loss.routing import PARTS, Gap, Normalised, Router, Trust
from pipeline.distill.losses import LossParts
from pipeline.distill.settings import Part, TrainSettings
from pipeline.distill.weighting.balance import RunningMeans, balanced
from pipeline.distill.weighting.gate import Gate
from pipeline.distill.weighting.ramp import ramp

ROUTER_DECAY = 0.99
"""of the running means behind routers: about the last hundred steps"""
LEAST_MEAN = 1e-6
"""What running means of routes and of losses count for at least where they are divided by"""
_MOST_TIMES = 100.0
"""a part's loss, that the largest counts for in the gate: beyond it what is compared is noise"""
QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


@dataclass(frozen=True, slots=True)
class StepWeights:
    """What one step weighs its parts with."""

    ce: float
    kd: float
    rank: float
    router: Router | None


class LossWeights:
    """Asked for the weights of a step before it, shown each of its micro-batches, told its figures after it."""

    def __init__(self, settings: TrainSettings, num_steps: int, device: torch.device | str = "cpu") -> None:
        self.settings, self.num_steps = settings, num_steps
        self.magnitudes: RunningMeans[Part] = RunningMeans(settings.balance_decay)
        self.losses: RunningMeans[Part] = RunningMeans(ROUTER_DECAY)
        self.routes: RunningMeans[Part] = RunningMeans(ROUTER_DECAY)
        self.router: Router | None = None
        if settings.router_kind == "learned":
            self.router = Gate(settings.parts, device)
        elif settings.router_kind != "uniform":
            self.router = Gap() if settings.router_kind == "gap" else Trust()
        self.forget_step()

    def scheduled(self, step: int) -> dict[Part, float]:
        """w_k(step), whatever the training has been like."""
        starts, ends = self.settings.weights_at_start, self.settings.weights_at_end
        shape = self.settings.weight_shape
        return {part: ramp(step, self.num_steps, starts[part], ends[part], shape) for part in PARTS}

    def at(self, step: int) -> StepWeights:
        """The weights of a step; what was noted of an earlier one, and never observed, is forgotten."""
        self.forget_step()
        weights = self.scheduled(step)
        if self.settings.balance:
            weights = balanced(weights, self.magnitudes)
        router = None if self.router is None else Normalised(self.router, self._route_means())
        return StepWeights(weights["ce"], weights["kd"], weights["rank"], router)

    def forget_step(self) -> None:
        """Nothing of a step that is begun, or begun again, has been noted yet."""
        self._routes: list[Tensor] = []
        self._sums: dict[str, Tensor] = {}
        if isinstance(self.router, Gate):
            self.router.forget()

    def note(self, parts: LossParts) -> None:
        """Look at one micro-batch, all of whose positions are scored; nothing waits for the device."""
        if parts.routes_N3 is None or parts.signals_N6 is None:
            return
        losses_n = _losses(parts)
        self._routes.append(parts.routes_N3)
        for part, loss_n in losses_n.items():
            name, routed = f"routed_{part}", (loss_n * parts.routes_N3[:, PARTS.index(part)]).sum()
            self._sums[name] = self._sums[name] + routed if name in self._sums else routed
        if isinstance(self.router, Gate):
            self._study(self.router, parts.signals_N6, losses_n)

    @property
    def num_routed(self) -> int:
        """Positions noted since the step began that a router has given weights."""
        return sum(map(len, self._routes))

    def parameters(self) -> list[Parameter]:
        """What the router learns; none where it learns nothing."""
        return [*self.router.parameters()] if isinstance(self.router, Gate) else []

    def among(self, num_routed: Sequence[int], number: int) -> list[Tensor]:
        """Widen to the routed positions of all ranks, so many each. Those of rank `number` keep their routes, others
        start at zero; returns what is to be summed over ranks, beside gradients."""
        if not self._routes:
            return []
        first = sum(num_routed[:number])
        own_n3 = torch.cat(self._routes)
        all_n3 = own_n3.new_zeros(sum(num_routed), len(PARTS))
        all_n3[first : first + len(own_n3)] = own_n3
        self._routes = [all_n3]
        return [all_n3, *self._sums.values()]

    def figures(self) -> dict[str, Tensor]:
        """What is to travel with the transfer of the step: sums of routed losses, and how the routes are spread."""
        routes_n3 = torch.cat(self._routes) if self._routes else None
        return {} if routes_n3 is None or not len(routes_n3) else self._sums | spread_of(routes_n3)

    def gradient_norm(self) -> dict[str, Tensor]:
        """To travel with it too, as `router_gradient`: what the gate is about to learn from, where it is."""
        norm = self.router.gradient_norm() if isinstance(self.router, Gate) else None
        return {} if norm is None else {"router_gradient": norm}

    def observe(self, figures: Mapping[str, float], num_positions: int, temperature: float) -> None:
        """Learn from the figures of a step that was not skipped, once they are on the host: sums over its positions."""
        given = zip(PARTS, self._route_means(), strict=True)
        self.routes.observe(
            {part: figures[name] * mean for part, mean in given if (name := f"route_{part}_mean") in figures}
        )
        sums = {part: figures[part] for part in PARTS if part in figures}
        self.losses.observe({part: total / num_positions for part, total in sums.items()})
        factors = {"kd": temperature**2}
        self.magnitudes.observe(
            {
                part: figures.get(f"routed_{part}", total) * factors.get(part, 1.0) / num_positions
                for part, total in sums.items()
            }
        )
        if isinstance(self.router, Gate):
            self.router.learn(num_positions)
        self.forget_step()

    def state(self) -> dict[str, Any]:
        """The numbers beside the tensors, for a checkpoint."""
        means = {"magnitudes": self.magnitudes, "losses": self.losses, "routes": self.routes}
        kept = {name: mean.state() for name, mean in means.items()}
        return self._router_name() | {"objective": self.settings.objective} | kept

    def tensors(self) -> dict[str, Tensor]:
        """What the router has learned, for a checkpoint; empty where it learns nothing."""
        return self.router.tensors() if isinstance(self.router, Gate) else {}

    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state` and `tensors` gave. Where this training, forked from another, has another objective, kd
        is sized anew; where it has another router, or another choice for it, what was learned of that begins anew."""
        self.magnitudes.load_state(state["magnitudes"])
        self.losses.load_state(state["losses"])
        if state.get("objective", self.settings.objective) != self.settings.objective:
            self.magnitudes.forget("kd")
            self.losses.forget("kd")
        if all(state[name] == value for name, value in self._router_name().items()):
            self.routes.load_state(state["routes"])
            if isinstance(self.router, Gate):
                self.router.load_tensors(tensors)

    def _router_name(self) -> dict[str, Any]:
        return {"router": self.settings.router_kind, "parts": list(self.settings.parts)}

    def _route_means(self) -> tuple[float, float, float]:
        ce, kd, rank = (max(LEAST_MEAN, self.routes.get(part)) for part in PARTS)
        return ce, kd, rank

    def _study(self, gate: Gate, signals_n6: Tensor, losses_n: Mapping[Part, Tensor]) -> None:
        """From the second step on: before there are no magnitudes to compare losses by. A part whose own is nearly
        zero, or estimated below it, as KD's is of a student that has become its teacher, would be all noise."""
        if all(part in self.losses and part in losses_n for part in gate.parts):
            means = {part: self.losses.get(part) for part in gate.parts}
            least = max(LEAST_MEAN, max(means.values()) / _MOST_TIMES)
            gate.study(signals_n6, losses_n, {part: max(least, mean) for part, mean in means.items()})


def spread_of(routes_n3: Tensor) -> dict[str, Tensor]:
    """Mean and nearest-rank quantiles over positions of what each part was given."""
    sorted_n3 = routes_n3.sort(dim=0).values
    last = len(routes_n3) - 1
    rows = {"mean": routes_n3.mean(dim=0)} | {name: sorted_n3[round(q * last)] for name, q in QUANTILES.items()}
    return {f"route_{part}_{name}": row_3[k] for k, part in enumerate(PARTS) for name, row_3 in rows.items()}


def _losses(parts: LossParts) -> dict[Part, Tensor]:
    """What there is of each part, a position."""
    losses: dict[Part, Tensor | None] = {"ce": parts.ce_N, "kd": parts.kd_N, "rank": parts.rank_N}
    return {part: loss_n for part, loss_n in losses.items() if loss_n is not None}
