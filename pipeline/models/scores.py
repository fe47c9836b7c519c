"""What the teacher says of some positions, as tensors on its device.

Shapes: **n** positions, **K** head ids, **M** draws from the tail, **R** betas. Everything in nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Scores:
    """The fields of `Records`, as tensors on the teacher's device; ids are int64, the rest float32."""

    ids_nK: Tensor
    logprobs_nK: Tensor
    tail_nR: Tensor
    draw_ids_nM: Tensor
    draw_logprobs_nM: Tensor
    label_logprobs_n: Tensor
    entropies_n: Tensor

    @classmethod
    def concatenate(cls, parts: Sequence[Scores]) -> Self:
        """The positions of all parts, one after another."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in cls.__slots__))
