"""The student's distribution of some positions, cut into head and tail, from logits that are used up.

The tail is a log-sum-exp over its own logits, never 1 − Σ head: with a confident student the difference is a gradient
of 8.0 where the truth is 2e-4. Letters: **n** positions, **V** effective vocabulary, **K** head ids.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from pipeline.distill.settings import HEAD_ONLY, Objective


@dataclass(frozen=True, slots=True, eq=False)
class StudentSoftmax:
    """q at one temperature: the scaled logits of the head, log-normalisers, and the softmax within the tail."""

    head_nK: Tensor
    """βz of the head ids; −inf at padding"""
    log_z_n1: Tensor
    log_tail_n1: Tensor
    """log-sum-exp of the tail's logits; −inf where there is no tail"""
    within_tail_nV: Tensor
    """q(v | tail); zero at the head's columns"""

    @classmethod
    def of(cls, head_nK: Tensor, tail_nV: Tensor, highest_n1: Tensor) -> Self:
        """From scaled logits, the tail's with −inf in the head's columns and `highest_n1` for their largest."""
        within_tail_nV = tail_nV.softmax(dim=1)
        # The largest probability is 1/Σ exp(z − highest): this spares the passes of a log-sum-exp.
        log_tail_n1 = highest_n1 - within_tail_nV.amax(dim=1, keepdim=True).log()
        log_z_n1 = torch.logaddexp(head_nK.logsumexp(dim=1, keepdim=True), log_tail_n1)
        return cls(head_nK, log_z_n1, log_tail_n1, within_tail_nV)

    def softened_(self, tail_nV: Tensor, highest_n1: Tensor, beta: float, objective: Objective) -> Self:
        """The student at another temperature; `tail_nV` is scaled in place.

        Objectives that never look at the tail are spared its exponentials: for them only the head is scaled.
        """
        if beta == 1.0:
            return self
        if objective in HEAD_ONLY:
            return replace(self, head_nK=self.head_nK * beta)
        return type(self).of(self.head_nK * beta, tail_nV.mul_(beta), highest_n1 * beta)

    def log_head(self) -> Tensor:
        """log q of the head ids [n, K]."""
        return self.head_nK - self.log_z_n1

    def log_tail(self) -> Tensor:
        """log q of the tail as a whole [n, 1]."""
        return self.log_tail_n1 - self.log_z_n1


def hide_head_(logits_nV: Tensor, ids_nK: Tensor) -> Tensor:
    """Put −inf in the head's columns; the largest logit that is left [n, 1], −inf where the head is all there is.

    There one head column gets 0 back: a softmax of nothing but −inf is NaN, one of a lone 0 is multiplied by an empty
    tail's factor of 0.
    """
    logits_nV.scatter_(1, ids_nK, -torch.inf)
    highest_n1 = logits_nV.amax(dim=1, keepdim=True)
    stand_in_n1 = torch.where(highest_n1.isneginf(), 0.0, -torch.inf)
    logits_nV.scatter_(1, ids_nK[:, :1], stand_in_n1.to(logits_nV.dtype))
    return highest_n1


def mix_(out_nV: Tensor, student: StudentSoftmax, ce_tail_n1: Tensor, soft: StudentSoftmax, kd_tail_n1: Tensor) -> None:
    """The dense part of the gradient; where both terms share one softmax (τ = 1), one pass writes it."""
    if soft.within_tail_nV is student.within_tail_nV:
        torch.mul(student.within_tail_nV, ce_tail_n1 + kd_tail_n1, out=out_nV)
    else:
        torch.mul(student.within_tail_nV, ce_tail_n1, out=out_nV)
        out_nV.addcmul_(soft.within_tail_nV, kd_tail_n1)
