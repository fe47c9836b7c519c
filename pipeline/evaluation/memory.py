"""How much of a card's memory one model's own work takes, whatever else lies there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Card:
    """A card's own account of its memory, in bytes."""

    allocated: Callable[[], int]
    peak: Callable[[], int]  # of `allocated`, since it was last forgotten
    forget_peak: Callable[[], None]


def card_of(device: torch.device) -> Card | None:
    """The account of a CUDA card; None for a CPU."""
    if device.type != "cuda":
        return None
    return Card(
        allocated=lambda: torch.cuda.memory_allocated(device),
        peak=lambda: torch.cuda.max_memory_allocated(device),
        forget_peak=lambda: torch.cuda.reset_peak_memory_stats(device),
    )


class MemoryMeter:
    """The most that a model took in any of its own passes: its weights, and what a pass adds to them.

        peak = max over passes of ( peak of the pass − ( allocated before it − weights ) )

    What is allocated before a pass and is not the model's (a teacher at hand, say) is not counted.
    """

    def __init__(self, model: nn.Module, card: Card) -> None:
        self._card = card
        self._weights_bytes = weights_bytes(model)
        self.peak_bytes = 0

    @contextlib.contextmanager
    def own_pass(self) -> Iterator[None]:
        """Around what the model alone does."""
        others_bytes = self._card.allocated() - self._weights_bytes
        self._card.forget_peak()
        yield
        self.peak_bytes = max(self.peak_bytes, self._card.peak() - others_bytes)


def weights_bytes(model: nn.Module) -> int:
    """Of all parameters and buffers, tied ones once."""
    storages = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
