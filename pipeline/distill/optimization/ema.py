"""A running average of the student's weights, which often generalises better than the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipeline.errors import IdentityError


class WeightAverage:
    """Exponential moving average of a model's parameters, in float32.

        average ← average + (1 − d_s)·(weights − average)        d_s = min(d, (1 + s)/(10 + s)) at step s

    The warmed-up decay d_s lets the average forget the random start quickly (the schedule of TensorFlow's
    ExponentialMovingAverage). Tied weights are kept once. On a `device` other than the weights' (None) it takes none of
    a card's memory, and each update a copy of the weights from there.
    """

    def __init__(self, model: nn.Module, decay: float, device: torch.device | None = None) -> None:
        self.decay, self._device = decay, device
        self._average = {
            name: weight.detach().to(device or weight.device, torch.float32, copy=True)
            for name, weight in model.named_parameters()
        }

    def decay_at(self, step: int) -> float:
        """d_s, for the update after step s (from 0)."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights as they are after step `step`."""
        weights = [
            weight.detach().to(average.device, torch.float32)
            for (_, weight), average in zip(model.named_parameters(), self._average.values(), strict=True)
        ]
        torch._foreach_lerp_(list(self._average.values()), weights, 1.0 - self.decay_at(step))

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by parameter name: all there is to save, as the decay depends on the step alone."""
        return dict(self._average)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from saved averages; IdentityError where they are another model's."""
        own = {name: tuple(average.shape) for name, average in self._average.items()}
        found = {name: tuple(average.shape) for name, average in state.items()}
        if own != found:
            names = sorted(name for name in own.keys() | found.keys() if own.get(name) != found.get(name))
            first = names[0]
            raise IdentityError(
                f"averaged weights: {len(names)} of {len(own)} parameters differ from this model's; the first is "
                f"{first}: expected shape {own.get(first)}, found {found.get(first)}. They belong to another student: "
                "start this one in a new run directory"
            )
        for name, average in self._average.items():
            average.copy_(state[name])

    @contextmanager
    def swapped_into(self, model: nn.Module) -> Iterator[None]:
        """Let the model carry the averages inside the block; its own weights come back bit for bit after it.

        Weights change in place, so whoever holds a parameter or a view of one sees the average too. Meanwhile its own
        lie where the average does.
        """
        own = {
            name: weight.detach().to(self._device or weight.device, copy=True)
            for name, weight in model.named_parameters()
        }
        _write_into(model, self._average)
        try:
            yield
        finally:
            _write_into(model, own)


@torch.no_grad()
def _write_into(model: nn.Module, values: dict[str, Tensor]) -> None:
    for name, weight in model.named_parameters():
        weight.copy_(values[name])
