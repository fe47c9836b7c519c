"""Distances between student and teacher on K+1 outcomes, the head ids and the tail as one, and within the head.

    bucket        Σ_k p_k·log( p_k/q_k )                                            KL(p_τ ‖ q_τ)
    sampled_tail  bucket + Σ_j m_j·( log p_τ(j|tail) − log q_τ(j|tail) )            M draws j stand for the tail
                  (of the kind `sampled` the label is the head, and its draws are those of other ids)
    subset        the same KL within the head, both sides renormalised on it
    reverse_kl    Σ_k q_k·log( q_k/p_k )                                            KL(q_τ ‖ p_τ)
    jsd           ½·Σ_k p_k·log( p_k/m_k ) + ½·Σ_k q_k·log( q_k/m_k ),    m = (p_τ + q_τ)/2

k runs over the head ids and the tail. Sources: the chain rule of KL for `sampled_tail`; Gu et al. 2024 (MiniLLM,
arXiv:2306.08543), equation 1, for `reverse_kl`; Lin 1991 ("Divergence measures based on the Shannon entropy"),
equation 4.1, for `jsd`, which is the generalised one of Agarwal et al. 2024 (GKD, arXiv:2306.13649) at equal weights.
Both papers also train on texts the student wrote; a cache holds the teacher on given texts, and this is its part.

`bucket`, `reverse_kl` and `jsd` are never above what they would be on all V outcomes, since merging outcomes takes from
any f-divergence (the data processing inequality). None of the three says how mass is spread within the tail.

Gradients by u = βz are of two forms. Averages under p give q − p. Averages under q give

    ∂/∂u_k = q_k·( g_k − Σ_l q_l·g_l ),      g = log(q/p) for reverse_kl,  ½·log(q/m) for jsd

where what the tail gets is spread over its ids by q_τ(v|tail). Letters: **n** positions, **K** head ids, **J** = K+1
outcomes, **M** draws. Nats everywhere; temperature and its τ² are the caller's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from pipeline.distill.loss.softening import SoftTarget
from pipeline.distill.loss.student_softmax import StudentSoftmax

EMPTY_TAIL_NATS = -100.0
"""What `reverse_kl` takes for the log mass of a tail stored as −inf, where the true divergence is infinite"""


@dataclass(frozen=True, slots=True, eq=False)
class Distance:
    """A distance in nats, and its gradient by βz."""

    nats_n1: Tensor
    tail_n1: Tensor
    """factor of q_τ(v|tail)"""
    head_nK: Tensor
    """what the head ids get"""

    @classmethod
    def within_head(cls, nats_n1: Tensor, head_nK: Tensor) -> Self:
        """A distance that says nothing of the tail."""
        return cls(nats_n1, torch.zeros_like(nats_n1), head_nK)


def forward_kl(soft: StudentSoftmax, draws_nM: Tensor, target: SoftTarget) -> Distance:
    """`bucket`; with draws `sampled_tail`. `draws_nM` are βz of the target's draws."""
    logq_head_nK, logq_tail_n1, p_head_nK = soft.log_head(), soft.log_tail(), target.logp_head_NK.exp()
    logp_tail_n1, masses_nM = target.logp_tail_N[:, None], target.draw_masses_NM
    p_tail_n1 = logp_tail_n1.exp()
    nats_n1 = (
        _expected(p_head_nK, target.logp_head_NK - logq_head_nK)
        + _expected(p_tail_n1, logp_tail_n1 - logq_tail_n1)
        + _expected(masses_nM, target.draw_logp_NM - (draws_nM - soft.log_tail_n1))
    )
    tail_n1 = logq_tail_n1.exp() - p_tail_n1 + masses_nM.sum(dim=1, keepdim=True)
    return Distance(nats_n1, tail_n1, logq_head_nK.exp() - p_head_nK)


def subset_kl(soft: StudentSoftmax, target: SoftTarget) -> Distance:
    """`subset`, for a target that is renormalised on the head."""
    logq_nK, p_nK = soft.head_nK.log_softmax(dim=1), target.logp_head_NK.exp()
    return Distance.within_head(_expected(p_nK, target.logp_head_NK - logq_nK), logq_nK.exp() - p_nK)


def reverse_kl(soft: StudentSoftmax, target: SoftTarget) -> Distance:
    """`reverse_kl`. A tail stored as empty counts as e^EMPTY_TAIL_NATS, so that a student with mass there is driven
    out of it by a finite force; where the head is everything (K ≥ V), neither side has a tail and this changes nothing.
    """
    logp_tail_n1 = target.logp_tail_N[:, None]
    logp_tail_n1 = logp_tail_n1.masked_fill(logp_tail_n1.isneginf(), EMPTY_TAIL_NATS)
    logq_nJ = _outcomes(soft)
    gaps_nJ = logq_nJ - torch.cat([target.logp_head_NK, logp_tail_n1], dim=1)
    return _under_student(_expected(logq_nJ.exp(), gaps_nJ), logq_nJ, gaps_nJ)


def jensen_shannon(soft: StudentSoftmax, target: SoftTarget) -> Distance:
    """`jsd`: between 0 and log 2, whatever either side calls impossible."""
    logq_nJ = _outcomes(soft)
    logp_nJ = torch.cat([target.logp_head_NK, target.logp_tail_N[:, None]], dim=1)
    middle_nJ = torch.logaddexp(logp_nJ, logq_nJ) - math.log(2)
    student_gaps_nJ = logq_nJ - middle_nJ
    nats_n1 = _expected(logp_nJ.exp(), logp_nJ - middle_nJ) + _expected(logq_nJ.exp(), student_gaps_nJ)
    return _under_student(nats_n1 / 2, logq_nJ, student_gaps_nJ / 2)


def _outcomes(soft: StudentSoftmax) -> Tensor:
    """log q of the head ids and, last, of the tail [n, J]."""
    return torch.cat([soft.log_head(), soft.log_tail()], dim=1)


def _under_student(nats_n1: Tensor, logq_nJ: Tensor, gaps_nJ: Tensor) -> Distance:
    """The distance with the gradient q_k·( g_k − Σ_l q_l·g_l ).

    Gaps are first taken relative to that of the student's likeliest outcome: for a confident student the difference
    would otherwise be one of two equal large numbers.
    """
    gaps_nJ = gaps_nJ.masked_fill(logq_nJ.isneginf(), 0.0)
    gaps_nJ = gaps_nJ - gaps_nJ.gather(1, logq_nJ.argmax(dim=1, keepdim=True))
    q_nJ = logq_nJ.exp()
    gradient_nJ = q_nJ * (gaps_nJ - (q_nJ * gaps_nJ).sum(dim=1, keepdim=True))
    return Distance(nats_n1, gradient_nJ[:, -1:], gradient_nJ[:, :-1])


def _expected(masses_nX: Tensor, gaps_nX: Tensor) -> Tensor:
    """Σ mass·gap [n, 1], where no mass makes nothing of any gap, an infinite one included."""
    return torch.where(masses_nX > 0, masses_nX * gaps_nX, 0.0).sum(dim=1, keepdim=True)
