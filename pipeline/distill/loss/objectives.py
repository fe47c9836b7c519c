"""The loss of some positions from their logits, and its gradient written over them.

Student logits z over V ids, q_τ = softmax(βz), β = 1/τ; teacher p_τ on a head of K ids and a tail, everything else.

    ce    = logsumexp(z) − z_label
    kd    = one of the objectives: `bucket`, `sampled_tail`, `subset`, `reverse_kl`, `jsd` (divergences.py),
            `ranked` (ranking.py)
    rank  = `ranked` at τ = 1, as a third part beside any objective

What is minimised is w·( ce_weight·ce + kd_weight·τ²·kd + rank_weight·rank ); τ² keeps the gradient's size as τ changes
(Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2). Its gradient by z, with q(v|tail) the softmax over the
non-head ids alone, G the gradient of kd by βz, a number for each head id and one for the tail as a whole, and R that of
rank by z:

    tail    w·ce_weight·q_1(tail)·q_1(v|tail) + w·kd_weight·τ·G_tail·q_τ(v|tail)
    head    w·ce_weight·q_1(i) + w·kd_weight·τ·G_i + w·rank_weight·R_i
    label   − w·ce_weight             draw j   − w·kd_weight·τ·m_j

so one scaled softmax is dense (two where τ ≠ 1) and the rest is scattered into it. `bucket` has G = q_τ − p_τ, and to
its tail `sampled_tail` adds Σ_j m_j. With a router (routing.py) each part has a w of its own, w·r_ce, w·r_kd, w·r_rank.
Letters: **n** positions, **V** effective vocabulary, **K** head ids, **M** draws.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from pipeline.distill.loss.divergences import Distance, forward_kl, jensen_shannon, reverse_kl, subset_kl
from pipeline.distill.loss.ranking import ranked
from pipeline.distill.loss.routing import PARTS, Router, Signal
from pipeline.distill.loss.softening import SoftTarget
from pipeline.distill.loss.student_softmax import StudentSoftmax, hide_head_, mix_, student_softmaxes_
from pipeline.distill.settings import Objective


@dataclass(frozen=True, slots=True)
class Goal:
    """What is minimised, and at which temperature."""

    objective: Objective
    temperature: float
    ce_weight: float
    kd_weight: float
    rank_weight: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Per position, unweighted, in nats; kd at temperature τ and without τ²."""

    ce_n: Tensor
    kd_n: Tensor
    agreement_n: Tensor
    """whether the student's largest logit is at the teacher's likeliest id"""
    rank_n: Tensor | None = None
    """at τ = 1; None where it has no weight"""
    signals_n6: Tensor | None = None
    """what a router looked at; None where there is none"""
    routes_n3: Tensor | None = None
    """and what it gave the parts"""

    @classmethod
    def blank(cls, count: int, like: Tensor, with_rank: bool = False, with_routes: bool = False) -> Self:
        """Room for the scores of `count` positions: zeros, of the dtype and device of `like`."""
        scores = cls(like.new_zeros(count), like.new_zeros(count), like.new_zeros(count, dtype=torch.bool))
        return replace(
            scores,
            rank_n=like.new_zeros(count) if with_rank else None,
            signals_n6=like.new_zeros(count, len(Signal)) if with_routes else None,
            routes_n3=like.new_zeros(count, len(PARTS)) if with_routes else None,
        )

    def put(self, rows: slice | Tensor, scores: Scores) -> None:
        """Fill in the scores of some positions."""
        for ours, theirs in zip(self.tensors(), scores.tensors(), strict=True):
            if ours is not None and theirs is not None:
                ours[rows] = theirs

    def tensors(self) -> tuple[Tensor | None, ...]:
        """The fields, in the order of their declaration."""
        return self.ce_n, self.kd_n, self.agreement_n, self.rank_n, self.signals_n6, self.routes_n3

    def weighted_sum(self, weights_n: Tensor, goal: Goal) -> Tensor:
        """What is minimised, summed over positions; not by a dot product, whose last digits depend on where in memory
        its operands lie."""
        ce_w_n, kd_w_n, rank_w_n = _routed(weights_n, self.routes_n3)
        kd_weight = goal.kd_weight * goal.temperature**2
        total = goal.ce_weight * (ce_w_n * self.ce_n).sum() + kd_weight * (kd_w_n * self.kd_n).sum()
        return total if self.rank_n is None else total + goal.rank_weight * (rank_w_n * self.rank_n).sum()


def score_(
    logits_nV: Tensor,
    labels_n: Tensor,
    weights_n: Tensor,
    target: SoftTarget,
    goal: Goal,
    with_gradient: bool,
    router: Router | None = None,
) -> Scores:
    """Scores of n positions. `logits_nV` is overwritten: with the gradient of the weighted loss, or with scratch.

    The target holds the head's order where rank has a weight, and the teacher's facts where there is a router.
    """
    beta, ids_nK, labels_n1 = 1.0 / goal.temperature, target.ids_NK, labels_n[:, None]
    label_z_n1 = logits_nV.gather(1, labels_n1)
    top_z_n1 = logits_nV.gather(1, target.top_ids_N[:, None])
    head_z_nK = logits_nV.gather(1, ids_nK).masked_fill_(target.logp_head_NK.isneginf(), -torch.inf)
    draws_z_nM = logits_nV.gather(1, target.draw_ids_NM)
    highest_n1 = hide_head_(logits_nV, ids_nK)
    agreement_n1 = (top_z_n1 >= highest_n1) & (top_z_n1 >= head_z_nK).all(dim=1, keepdim=True)

    student, soft = student_softmaxes_(logits_nV, head_z_nK, highest_n1, beta, goal.objective)
    ce_n1 = student.log_z_n1 - label_z_n1
    kd = _distance(soft, draws_z_nM * beta, target, goal)
    rank = ranked(student.head_nK, target.order_NK) if goal.rank_weight else None
    signals_n6, routes_n3 = _ask(router, student, ce_n1, agreement_n1, target)
    if with_gradient:
        ce_w_n, kd_w_n, rank_w_n = _routed(weights_n, routes_n3)
        ce_row_n1 = ce_w_n[:, None] * goal.ce_weight
        kd_row_n1 = kd_w_n[:, None] * (goal.kd_weight * goal.temperature)
        ce_tail_n1 = ce_row_n1 * student.log_tail().exp()
        mix_(logits_nV, student, ce_tail_n1, soft, kd_row_n1 * kd.tail_n1)
        of_head_nK = ce_row_n1 * student.log_head().exp() + kd_row_n1 * kd.head_nK
        if rank is not None:
            of_head_nK.addcmul_(rank_w_n[:, None], rank.head_nK, value=goal.rank_weight)
        logits_nV.scatter_add_(1, ids_nK, of_head_nK)
        logits_nV.scatter_add_(1, target.draw_ids_NM, target.draw_masses_NM * -kd_row_n1)
        logits_nV.scatter_add_(1, labels_n1, -ce_row_n1)
    rank_n = None if rank is None else rank.nats_n1[:, 0]
    return Scores(ce_n1[:, 0], kd.nats_n1[:, 0], agreement_n1[:, 0], rank_n, signals_n6, routes_n3)


def _routed(weights_n: Tensor, routes_n3: Tensor | None) -> tuple[Tensor, ...]:
    """The weights of each part: those of the positions, times what a router gave."""
    if routes_n3 is None:
        return (weights_n,) * len(PARTS)
    return (weights_n[:, None] * routes_n3).unbind(dim=1)


def _ask(
    router: Router | None, student: StudentSoftmax, ce_n1: Tensor, agreement_n1: Tensor, target: SoftTarget
) -> tuple[Tensor | None, Tensor | None]:
    """What is known of each position [n, 6], in the order of `Signal`, and what the router makes of it [n, 3]."""
    if router is None:
        return None, None
    entropy_n1 = student.entropy() if router.asks_entropy else torch.zeros_like(ce_n1)
    gap_n1 = ce_n1 + target.facts_N3[:, Signal.TEACHER_LABEL, None]
    signals_n6 = torch.cat([target.facts_N3, entropy_n1, gap_n1, agreement_n1.to(ce_n1.dtype)], dim=1)
    return signals_n6, router.route(signals_n6)


def _distance(soft: StudentSoftmax, draws_nM: Tensor, target: SoftTarget, goal: Goal) -> Distance:
    """The objective at the student's temperature, with its gradient by βz; nothing where it has no weight."""
    objective = goal.objective
    if goal.kd_weight == 0:
        return Distance.within_head(torch.zeros_like(soft.log_z_n1), torch.zeros_like(soft.head_nK))
    if objective == "subset":
        return subset_kl(soft, target)
    if objective == "ranked":
        return ranked(soft.head_nK, target.logp_head_NK)
    if objective == "reverse_kl":
        return reverse_kl(soft, target)
    if objective == "jsd":
        return jensen_shannon(soft, target)
    return forward_kl(soft, draws_nM, target)
