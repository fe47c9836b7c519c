"""The loss of some positions from their logits, and its gradient written over them.

Student logits z over V ids, q_τ = softmax(βz), β = 1/τ; teacher p_τ on a head of K ids and a tail, everything else.

    ce            = logsumexp(z) − z_label
    bucket        = Σ_head p_τ(i)·log( p_τ(i)/q_τ(i) ) + p_τ(tail)·log( p_τ(tail)/q_τ(tail) )
    sampled_tail  = bucket + Σ_j m_j·( log p_τ(j|tail) − log q_τ(j|tail) )          chain rule of KL, M draws j
    subset        = Σ_head p(i|head)·log( p(i|head)/q_τ(i|head) )

What is minimised is w·( ce_weight·ce + kd_weight·τ²·kd ); τ² keeps the gradient's size as τ changes (Hinton, Vinyals
and Dean 2015, arXiv:1503.02531, section 2). Its gradient by z, with q(v|tail) the softmax over the non-head ids alone:

    tail    w·ce_weight·q_1(tail)·q_1(v|tail) + w·kd_weight·τ·( q_τ(tail) − p_τ(tail) + Σ_j m_j )·q_τ(v|tail)
    head    w·ce_weight·q_1(i) + w·kd_weight·τ·( q_τ(i) − p_τ(i) )
    label   − w·ce_weight             draw j   − w·kd_weight·τ·m_j

so one scaled softmax is dense (two where τ ≠ 1) and the rest is scattered into it. The student's tail is a log-sum-exp
over its own logits, never 1 − Σ head: with a confident student the difference is a gradient of 8.0 where the truth is
2e-4. Letters: **n** positions, **V** effective vocabulary, **K** head ids, **M** draws.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from pipeline.distill.settings import Objective
from pipeline.distill.softening import SoftTarget


@dataclass(frozen=True, slots=True)
class Goal:
    """What is minimised, and at which temperature."""

    objective: Objective
    temperature: float
    ce_weight: float
    kd_weight: float


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Per position, unweighted, in nats; kd at temperature τ and without τ²."""

    ce_n: Tensor
    kd_n: Tensor
    agreement_n: Tensor
    """whether the student's largest logit is at the teacher's likeliest id"""

    @classmethod
    def blank(cls, count: int, like: Tensor) -> Self:
        """Room for the scores of `count` positions: zeros, of the dtype and device of `like`."""
        return cls(like.new_zeros(count), like.new_zeros(count), like.new_zeros(count, dtype=torch.bool))

    def put(self, rows: slice | Tensor, scores: Scores) -> None:
        """Fill in the scores of some positions."""
        self.ce_n[rows], self.kd_n[rows], self.agreement_n[rows] = scores.ce_n, scores.kd_n, scores.agreement_n

    def weighted_sum(self, weights_n: Tensor, goal: Goal) -> Tensor:
        """What is minimised, summed over positions."""
        kd_weight = goal.kd_weight * goal.temperature**2
        return goal.ce_weight * (weights_n @ self.ce_n) + kd_weight * (weights_n @ self.kd_n)


@dataclass(frozen=True, slots=True, eq=False)
class _Student:
    """q at one temperature: the scaled logits of the head, log-normalisers, and the softmax within the tail."""

    head_nK: Tensor
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

    def log_head(self) -> Tensor:
        """log q of the head ids [n, K]."""
        return self.head_nK - self.log_z_n1

    def log_tail(self) -> Tensor:
        """log q of the tail as a whole [n, 1]."""
        return self.log_tail_n1 - self.log_z_n1


def score_(
    logits_nV: Tensor, labels_n: Tensor, weights_n: Tensor, target: SoftTarget, goal: Goal, with_gradient: bool
) -> Scores:
    """Scores of n positions. `logits_nV` is overwritten: with the gradient of the weighted loss, or with scratch."""
    beta, ids_nK, labels_n1 = 1.0 / goal.temperature, target.ids_NK, labels_n[:, None]
    label_z_n1 = logits_nV.gather(1, labels_n1)
    top_z_n1 = logits_nV.gather(1, target.top_ids_N[:, None])
    head_z_nK = logits_nV.gather(1, ids_nK).masked_fill_(target.logp_head_NK.isneginf(), -torch.inf)
    draws_z_nM = logits_nV.gather(1, target.draw_ids_NM)
    highest_n1 = _hide_head_(logits_nV, ids_nK)
    agreement_n1 = (top_z_n1 >= highest_n1) & (top_z_n1 >= head_z_nK).all(dim=1, keepdim=True)

    student = soft = _Student.of(head_z_nK, logits_nV, highest_n1)
    ce_n1 = student.log_z_n1 - label_z_n1
    if beta != 1.0:
        soft = _soften_(student, logits_nV, highest_n1, beta, goal.objective)
    kd_n1, kd_tail_n1, kd_head_nK = _distil(soft, draws_z_nM * beta, target, goal.objective)
    if with_gradient:
        ce_row_n1 = weights_n[:, None] * goal.ce_weight
        kd_row_n1 = weights_n[:, None] * (goal.kd_weight * goal.temperature)
        ce_tail_n1 = ce_row_n1 * student.log_tail().exp()
        _mix_(logits_nV, student, ce_tail_n1, soft, kd_row_n1 * kd_tail_n1)
        logits_nV.scatter_add_(1, ids_nK, ce_row_n1 * student.log_head().exp() + kd_row_n1 * kd_head_nK)
        logits_nV.scatter_add_(1, target.draw_ids_NM, target.draw_masses_NM * -kd_row_n1)
        logits_nV.scatter_add_(1, labels_n1, -ce_row_n1)
    return Scores(ce_n1[:, 0], kd_n1[:, 0], agreement_n1[:, 0])


def _hide_head_(logits_nV: Tensor, ids_nK: Tensor) -> Tensor:
    """Put −inf in the head's columns; the largest logit that is left [n, 1], −inf where the head is all there is.

    There one head column gets 0 back: a softmax of nothing but −inf is NaN, one of a lone 0 is multiplied by an empty
    tail's factor of 0.
    """
    logits_nV.scatter_(1, ids_nK, -torch.inf)
    highest_n1 = logits_nV.amax(dim=1, keepdim=True)
    stand_in_n1 = torch.where(highest_n1.isneginf(), 0.0, -torch.inf)
    logits_nV.scatter_(1, ids_nK[:, :1], stand_in_n1.to(logits_nV.dtype))
    return highest_n1


def _soften_(student: _Student, tail_nV: Tensor, highest_n1: Tensor, beta: float, objective: Objective) -> _Student:
    """The student at another temperature; `subset` never looks at the tail, and is spared its exponentials."""
    if objective == "subset":
        return replace(student, head_nK=student.head_nK * beta)
    return _Student.of(student.head_nK * beta, tail_nV.mul_(beta), highest_n1 * beta)


def _distil(
    soft: _Student, draws_nM: Tensor, target: SoftTarget, objective: Objective
) -> tuple[Tensor, Tensor, Tensor]:
    """KD [n, 1], and its gradient by βz: the factor [n, 1] of q_τ(v|tail), and what the head ids get [n, K]."""
    p_head_nK = target.logp_head_NK.exp()
    if objective == "subset":
        logq_nK = soft.head_nK.log_softmax(dim=1)
        kd_n1 = _expected(p_head_nK, target.logp_head_NK - logq_nK)
        return kd_n1, torch.zeros_like(kd_n1), logq_nK.exp() - p_head_nK
    logq_head_nK, logq_tail_n1 = soft.log_head(), soft.log_tail()
    logp_tail_n1, masses_nM = target.logp_tail_N[:, None], target.draw_masses_NM
    p_tail_n1 = logp_tail_n1.exp()
    kd_n1 = (
        _expected(p_head_nK, target.logp_head_NK - logq_head_nK)
        + _expected(p_tail_n1, logp_tail_n1 - logq_tail_n1)
        + _expected(masses_nM, target.draw_logp_NM - (draws_nM - soft.log_tail_n1))
    )
    tail_n1 = logq_tail_n1.exp() - p_tail_n1 + masses_nM.sum(dim=1, keepdim=True)
    return kd_n1, tail_n1, logq_head_nK.exp() - p_head_nK


def _expected(masses_nX: Tensor, gaps_nX: Tensor) -> Tensor:
    """Σ mass·gap [n, 1], where no mass makes nothing of any gap, an infinite one included."""
    return torch.where(masses_nX > 0, masses_nX * gaps_nX, 0.0).sum(dim=1, keepdim=True)


def _mix_(out_nV: Tensor, student: _Student, ce_tail_n1: Tensor, soft: _Student, kd_tail_n1: Tensor) -> None:
    """The dense part of the gradient; where both terms share one softmax (τ = 1), one pass writes it."""
    if soft.within_tail_nV is student.within_tail_nV:
        torch.mul(student.within_tail_nV, ce_tail_n1 + kd_tail_n1, out=out_nV)
    else:
        torch.mul(student.within_tail_nV, ce_tail_n1, out=out_nV)
        out_nV.addcmul_(soft.within_tail_nV, kd_tail_n1)
