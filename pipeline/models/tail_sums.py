"""Sums over everything outside the head, for every stored β at once.

Passes over [n, V] are what scoring costs; each is counted. Shapes: **n** positions, **V** effective vocabulary,
**M** draws, **R** betas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

LOG2_E = math.log2(math.e)
"""exp2 is a third of the time of exp on CPU."""
NOT_TAIL = -1e30
"""Instead of −inf: its exponential is 0 as well, and 0 · −1e30 is no NaN."""


@dataclass(frozen=True, slots=True)
class TailSums:
    """Of logits x, relative to the largest of the tail."""

    log_sums: dict[float, Tensor]
    """β -> log Σ exp(βx), float64 [n, 1]"""
    energy_n1: Tensor
    """Σ x·exp(x), for the entropy; float64"""


def tail_sums(
    tail_nV: Tensor, betas: tuple[float, ...], powers_nV: Tensor, look: Callable[[float, Tensor], None] | None = None
) -> TailSums:
    """Sums over `tail_nV`, whose head columns hold NOT_TAIL; `look` is shown exp(βx) [n, V] of every β as it passes.

    exp(x/4) squared is exp(x/2), and that squared exp(x): one exponential serves a chain of doubled betas, all of it in
    the room that `powers_nV` gives.
    """
    log_sums: dict[float, Tensor] = {}
    energy_n1 = torch.zeros_like(tail_nV[:, :1], dtype=torch.float64)
    for chain in _doubling_chains(betas):
        torch.mul(tail_nV, chain[0] * LOG2_E, out=powers_nV).exp2_()
        for beta in chain:
            if beta != chain[0]:
                powers_nV.square_()
            log_sums[beta] = powers_nV.sum(dim=1, keepdim=True).double().log_()
            if look is not None:
                look(beta, powers_nV)
            if beta == 1.0:
                energy_n1 = powers_nV.mul_(tail_nV).sum(dim=1, keepdim=True).double()  # β = 1 ends its chain
    return TailSums(log_sums, energy_n1)


def _doubling_chains(betas: tuple[float, ...]) -> Iterator[tuple[float, ...]]:
    """Betas grouped so that each is twice the one before: (1/4, 1/2, 1), (1/3,), (0.7,), (0.9,)."""
    left = sorted(betas)
    while left:
        chain = [left.pop(0)]
        while 2 * chain[-1] in left:
            left.remove(2 * chain[-1])
            chain.append(2 * chain[-1])
        yield tuple(chain)
