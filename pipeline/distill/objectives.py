"""The loss of some positions from their logits, and its gradient written over them.

Student logits z over V ids, q_τ = softmax(βz), β = 1/τ; teacher p_τ on a head of K ids and a tail, everything else.

    ce    = logsumexp(z) − z_label
    kd    = one of the objectives: `bucket`, `sampled_tail`, `subset`, `reverse_kl`, `jsd` (divergences.py),
            `ranked` (ranking.py)

What is minimised is w·( ce_weight·ce + kd_weight·τ²·kd ); τ² keeps the gradient's size as τ changes (Hinton, Vinyals
and Dean 2015, arXiv:1503.02531, section 2). Its gradient by z, with q(v|tail) the softmax over the non-head ids alone
and G the gradient of kd by βz, a number for each head id and one for the tail as a whole:

    tail    w·ce_weight·q_1(tail)·q_1(v|tail) + w·kd_weight·τ·G_tail·q_τ(v|tail)
    head    w·ce_weight·q_1(i) + w·kd_weight·τ·G_i
    label   − w·ce_weight             draw j   − w·kd_weight·τ·m_j

so one scaled softmax is dense (two where τ ≠ 1) and the rest is scattered into it. `bucket` has G = q_τ − p_τ, and to
its tail `sampled_tail` adds Σ_j m_j. Letters: **n** positions, **V** effective vocabulary, **K** head ids, **M** draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from pipeline.distill.divergences import Distance, forward_kl, jensen_shannon, reverse_kl, subset_kl
from pipeline.distill.ranking import ranked
from pipeline.distill.settings import Objective
from pipeline.distill.softening import SoftTarget
from pipeline.distill.student_softmax import StudentSoftmax, hide_head_, mix_, student_softmaxes_


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


def score_(
    logits_nV: Tensor, labels_n: Tensor, weights_n: Tensor, target: SoftTarget, goal: Goal, with_gradient: bool
) -> Scores:
    """Scores of n positions. `logits_nV` is overwritten: with the gradient of the weighted loss, or with scratch."""
    beta, ids_nK, labels_n1 = 1.0 / goal.temperature, target.ids_NK, labels_n[:, None]
    label_z_n1 = logits_nV.gather(1, labels_n1)
    top_z_n1 = logits_nV.gather(1, target.top_ids_N[:, None])
    head_z_nK = logits_nV.gather(1, ids_nK).masked_fill_(target.logp_head_NK.isneginf(), -torch.inf)
    draws_z_nM = logits_nV.gather(1, target.draw_ids_NM)
    highest_n1 = hide_head_(logits_nV, ids_nK)
    agreement_n1 = (top_z_n1 >= highest_n1) & (top_z_n1 >= head_z_nK).all(dim=1, keepdim=True)

    student, soft = student_softmaxes_(logits_nV, head_z_nK, highest_n1, beta, goal.objective)
    ce_n1 = student.log_z_n1 - label_z_n1
    kd = _distance(soft, draws_z_nM * beta, target, goal.objective)
    if with_gradient:
        ce_row_n1 = weights_n[:, None] * goal.ce_weight
        kd_row_n1 = weights_n[:, None] * (goal.kd_weight * goal.temperature)
        ce_tail_n1 = ce_row_n1 * student.log_tail().exp()
        mix_(logits_nV, student, ce_tail_n1, soft, kd_row_n1 * kd.tail_n1)
        logits_nV.scatter_add_(1, ids_nK, ce_row_n1 * student.log_head().exp() + kd_row_n1 * kd.head_nK)
        logits_nV.scatter_add_(1, target.draw_ids_NM, target.draw_masses_NM * -kd_row_n1)
        logits_nV.scatter_add_(1, labels_n1, -ce_row_n1)
    return Scores(ce_n1[:, 0], kd.nats_n1[:, 0], agreement_n1[:, 0])


def _distance(soft: StudentSoftmax, draws_nM: Tensor, target: SoftTarget, objective: Objective) -> Distance:
    """The objective at the student's temperature, with its gradient by βz."""
    if objective == "subset":
        return subset_kl(soft, target)
    if objective == "ranked":
        return ranked(soft, target)
    if objective == "reverse_kl":
        return reverse_kl(soft, target)
    if objective == "jsd":
        return jensen_shannon(soft, target)
    return forward_kl(soft, draws_nM, target)
