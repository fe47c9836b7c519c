"""A chunk's logits, cut into head and tail.

Shapes: **n** positions, **V** effective vocabulary, **K** ids of the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from pipeline.models.tail_sums import NOT_TAIL
from pipeline.models.top_ids import top_ids


@dataclass(frozen=True, slots=True)
class HeadAndTail:
    """Logits relative to the tail's largest."""

    ids_nK: Tensor
    """the K < V largest, ascending; among equals the lowest first"""
    head_nK: Tensor
    """their logits, float64"""
    label_n1: Tensor
    """the label's logit, float64"""
    tail_nV: Tensor
    """NOT_TAIL in the head's columns; the memory of the logits it was made of"""

    @classmethod
    def of(cls, logits_nV: Tensor, labels_n: Tensor, head_size: int) -> Self:
        """Cut off a head of `head_size` ids; the logits are used up."""
        ids_nK, tail_max_n1 = top_ids(logits_nV, head_size)
        head_nK = logits_nV.gather(1, ids_nK).double() - tail_max_n1
        label_n1 = logits_nV.gather(1, labels_n.unsqueeze(1)).double() - tail_max_n1
        return cls(ids_nK, head_nK, label_n1, logits_nV.sub_(tail_max_n1).scatter_(1, ids_nK, NOT_TAIL))
