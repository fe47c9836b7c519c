"""The student's distribution of some positions, cut into head and tail, from logits that are used up.

The tail is a log-sum-exp over its own logits, never 1 − Σ head: with a confident student the difference is a gradient
of 8.0 where the truth is 2e-4. Passes over [n, V] are what this costs: a temperature takes one exponential, and exp2 is
a third of the time of exp on CPU; an entropy by log2 takes a quarter of the time of torch's own function for it.
Letters: **n** positions, **V** effective vocabulary, **K** head ids.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from pipeline.distill.settings import HEAD_ONLY, Objective

_LOG2_E = math.log2(math.e)
_LEAST_POWER = 1e-37
"""whose product with its logarithm is nothing beside 1; a power of 0 has none"""


@dataclass(frozen=True, slots=True, eq=False)
class StudentSoftmax:
    """q at one temperature: the scaled logits of the head, log-normalisers, and powers of the tail."""

    head_nK: Tensor
    """βz of the head ids; −inf at padding"""
    log_z_n1: Tensor
    log_tail_n1: Tensor
    """log-sum-exp of the tail's βz; −inf where there is no tail"""
    powers_nV: Tensor
    """exp( β·(z − the tail's largest z) ); zero at the head's columns"""
    total_n1: Tensor
    """Σ of the powers, at least 1: powers over total are q(v | tail)"""

    @classmethod
    def of(cls, head_nK: Tensor, powers_nV: Tensor, highest_n1: Tensor) -> Self:
        """From βz of the head, the tail's powers, and βz of the tail's largest (−inf where there is no tail)."""
        total_n1 = powers_nV.sum(dim=1, keepdim=True)
        log_tail_n1 = highest_n1 + total_n1.log()
        log_z_n1 = torch.logaddexp(head_nK.logsumexp(dim=1, keepdim=True), log_tail_n1)
        return cls(head_nK, log_z_n1, log_tail_n1, powers_nV, total_n1)

    def log_head(self) -> Tensor:
        """log q of the head ids [n, K]."""
        return self.head_nK - self.log_z_n1

    def log_tail(self) -> Tensor:
        """log q of the tail as a whole [n, 1]."""
        return self.log_tail_n1 - self.log_z_n1

    def entropy(self) -> Tensor:
        """−Σ_V q·log q [n, 1], in nats: one logarithm more over [n, V].

        The tail's share is −q_t·log q_t + q_t·H(tail), where with powers e_v and their sum S the entropy within the
        tail is H(tail) = log S − 1/S·Σ_v e_v·log e_v.
        """
        log_head_nK, log_tail_n1 = self.log_head(), self.log_tail()
        log2_powers_nV = self.powers_nV.clamp_min(_LEAST_POWER).log2_()
        weighted_n1 = log2_powers_nV.mul_(self.powers_nV).sum(dim=1, keepdim=True)
        within_n1 = self.total_n1.log() - weighted_n1 / (_LOG2_E * self.total_n1)
        outcomes_nJ = torch.cat([log_head_nK, log_tail_n1], dim=1)
        among_nJ = torch.where(outcomes_nJ.isneginf(), 0.0, -outcomes_nJ * outcomes_nJ.exp())
        return among_nJ.sum(dim=1, keepdim=True) + log_tail_n1.exp() * within_n1


def student_softmaxes_(
    logits_nV: Tensor, head_nK: Tensor, highest_n1: Tensor, beta: float, objective: Objective
) -> tuple[StudentSoftmax, StudentSoftmax]:
    """The student at temperature 1 and at 1/β, from what `hide_head_` left of its logits, which are used up.

    Objectives that never look at the tail are spared its exponentials at 1/β: for them only the head is scaled.
    """
    if beta == 1.0 or objective in HEAD_ONLY:
        student = StudentSoftmax.of(head_nK, logits_nV.mul_(_LOG2_E).exp2_(), highest_n1)
        return student, student if beta == 1.0 else replace(student, head_nK=head_nK * beta)
    student = StudentSoftmax.of(head_nK, torch.mul(logits_nV, _LOG2_E).exp2_(), highest_n1)
    return student, StudentSoftmax.of(head_nK * beta, logits_nV.mul_(beta * _LOG2_E).exp2_(), highest_n1 * beta)


def hide_head_(logits_nV: Tensor, ids_nK: Tensor) -> Tensor:
    """Put −inf in the head's columns and take the largest logit that is left from all others, in place; returns it
    [n, 1], −inf where the head is all there is.

    There one head column gets 0: powers that are all zero have no sum to divide by, a lone 1 is multiplied by an empty
    tail's factor of 0.
    """
    logits_nV.scatter_(1, ids_nK, -torch.inf)
    highest_n1 = logits_nV.amax(dim=1, keepdim=True)
    empty_n1 = highest_n1.isneginf()
    logits_nV.sub_(highest_n1.masked_fill(empty_n1, 0.0))
    logits_nV.scatter_(1, ids_nK[:, :1], torch.where(empty_n1, 0.0, -torch.inf).to(logits_nV.dtype))
    return highest_n1


def mix_(out_nV: Tensor, student: StudentSoftmax, ce_tail_n1: Tensor, soft: StudentSoftmax, kd_tail_n1: Tensor) -> None:
    """The dense part of the gradient, ce_tail·q_1(v|tail) + kd_tail·q_τ(v|tail), over the powers of `soft`, which are
    `out_nV` itself. Where both terms share one softmax (τ = 1), one pass writes it."""
    if soft.powers_nV is student.powers_nV:
        out_nV.mul_((ce_tail_n1 + kd_tail_n1) / student.total_n1)
    else:
        out_nV.mul_(kd_tail_n1 / soft.total_n1).addcmul_(student.powers_nV, ce_tail_n1 / student.total_n1)
