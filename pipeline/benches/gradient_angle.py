"""How far an objective's gradient points from the one of full distillation, which sees all V log-probabilities.

    full KD     τ²·KL(p_τ ‖ q_τ) over all ids, its gradient by the logits  τ·( q_τ − p_τ )
    angle       between two gradients as vectors, in degrees; 0 is the same direction
    norm ratio  ‖objective‖ / ‖full KD‖

By the logits and by the hidden states each position has a gradient of its own, and angles and ratios are averaged over
positions; an objective that is right on average (`sampled_tail`) has a wide angle there. By the output matrix there is
one gradient, summed over positions, in which what is random averages out and what is biased stays. (Anshumann et al.
2025, "Sparse logit sampling", arXiv:2503.16870, compare gradients of whole models in this way.)

Shapes: **N** positions, **n** those of a chunk, **V** effective vocabulary, **D** model width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.cache.records import Records
from pipeline.distill.loss.record_tensors import RecordTensors
from pipeline.distill.losses import distillation_loss
from pipeline.distill.settings import Objective
from pipeline.models.head import Head


@dataclass(frozen=True, slots=True)
class GradientAngle:
    """How one gradient stands to another."""

    degrees: float
    norm_ratio: float


@dataclass(frozen=True, slots=True)
class GradientAngles:
    """An objective's gradients beside those of full distillation."""

    logits: GradientAngle
    """by the logits, mean over positions"""
    hidden: GradientAngle | None
    """by the hidden states, mean over positions; None for a head without a matrix"""
    weight: GradientAngle | None
    """by the output matrix, of the sum over positions; None for a head without one"""


def gradient_angles(
    hidden_ND: Tensor,
    head: Head,
    labels_N: Tensor,
    teacher_logits_NV: Tensor,
    records: Records | RecordTensors,
    temperature: float = 1.0,
    objective: Objective = "sampled_tail",
    chunk_positions: int = 512,
) -> GradientAngles:
    """Angles and norm ratios at N positions, of KD alone; `records` are what a cache holds of `teacher_logits_NV`
    and of the labels.

    `teacher_logits_NV` [N, ≥ V] may be logits or log-probabilities, at temperature 1, on any device. Gradients are
    compared in float64 on the student's device, [chunk_positions, V] of each at a time and [V, D] of each in all.
    Positions where full KD has no gradient are left out of the means. ValueError where shapes do not match, for a
    temperature outside [1, 4], and where full KD has no gradient at all.
    """
    if isinstance(records, Records):
        records = RecordTensors.from_records(records, hidden_ND.device)
    if len(teacher_logits_NV) != len(hidden_ND) or teacher_logits_NV.shape[1] < records.vocab_size:
        raise ValueError(
            f"gradient_angles: expected teacher logits [{len(hidden_ND)}, {records.vocab_size} or more], one row for "
            f"each hidden state, found {tuple(teacher_logits_NV.shape)}"
        )
    by_logits, by_hidden, sums = [], [], _WeightGradients()
    for rows_n in torch.split(torch.arange(len(hidden_ND), device=hidden_ND.device), chunk_positions):
        hidden_nD, part = hidden_ND[rows_n].detach(), records.rows(rows_n)
        logits_nV = head.logits_float32(hidden_nD)
        ours_nV = _objective_gradient(logits_nV, labels_N[rows_n], part, temperature, objective)
        teacher_nV = teacher_logits_NV[rows_n.to(teacher_logits_NV.device), : records.vocab_size]
        full_nV = _full_gradient(logits_nV, teacher_nV.to(logits_nV.device), temperature)
        by_logits.append(_compare(ours_nV, full_nV))
        if head.weight_VD is not None:
            ours_nV, full_nV = (_through_softcap(gradient, logits_nV, head.softcap) for gradient in (ours_nV, full_nV))
            weight_VD = head.weight_VD[: records.vocab_size].detach().double()
            by_hidden.append(_compare(ours_nV @ weight_VD, full_nV @ weight_VD))
            sums.add(ours_nV.T @ hidden_nD.double(), full_nV.T @ hidden_nD.double())
    return GradientAngles(_mean(by_logits), _mean(by_hidden) if by_hidden else None, sums.angle())


def angle_between(ours: Tensor, full: Tensor) -> GradientAngle:
    """Of two gradients of one shape; ValueError where `full` is zero."""
    return _mean([_compare(ours.double().reshape(1, -1), full.double().reshape(1, -1))])


def without_tail(records: RecordTensors) -> RecordTensors:
    """What a cache of plain top-K knows: the head, renormalised on itself at any temperature, and of the tail nothing.

    `bucket` on it is the usual top-K distillation, −Σ_head p(i|head)·log q(i) with q over all V ids: what published
    angles of "top-K" are of. (`subset` renormalises the student's side as well.)
    """
    return replace(records, tail_NR=torch.full_like(records.tail_NR, -torch.inf))


@dataclass(slots=True, eq=False)
class _WeightGradients:
    """Both gradients by the output matrix [V, D], summed over chunks."""

    ours_VD: Tensor | None = None
    full_VD: Tensor | None = None

    def add(self, ours_VD: Tensor, full_VD: Tensor) -> None:
        """The sums over one more chunk."""
        self.ours_VD = ours_VD if self.ours_VD is None else self.ours_VD.add_(ours_VD)
        self.full_VD = full_VD if self.full_VD is None else self.full_VD.add_(full_VD)

    def angle(self) -> GradientAngle | None:
        """Between the sums; None where there are none."""
        if self.ours_VD is None or self.full_VD is None:
            return None
        return _mean([_compare(self.ours_VD.reshape(1, -1), self.full_VD.reshape(1, -1))])


def _objective_gradient(
    logits_nV: Tensor, labels_n: Tensor, records: RecordTensors, temperature: float, objective: Objective
) -> Tensor:
    """Gradient of τ²·KD by the logits, as the loss makes it; float64 [n, V]."""
    leaf_nV = logits_nV.clone().requires_grad_()
    with torch.enable_grad():
        parts = distillation_loss(
            leaf_nV,
            Head(None, num_effective=records.vocab_size),
            labels_n,
            records,
            temperature,
            objective,
            ce_weight=0.0,
            kd_weight=1.0,
            normaliser=1.0,
            chunk_positions=len(leaf_nV),
        )
        [gradient_nV] = torch.autograd.grad(parts.loss, leaf_nV)
    return gradient_nV.double()


def _full_gradient(logits_nV: Tensor, teacher_nV: Tensor, temperature: float) -> Tensor:
    """τ·( q_τ − p_τ ) over all ids, float64 [n, V]."""
    q_nV, p_nV = ((side.double() / temperature).softmax(dim=1) for side in (logits_nV, teacher_nV))
    return temperature * (q_nV - p_nV)


def _through_softcap(gradient_nV: Tensor, logits_nV: Tensor, softcap: float | None) -> Tensor:
    """From the gradient by the logits to the one by h Wᵀ + b, but for the head's `scale`, which both sides share."""
    if softcap is None:
        return gradient_nV
    return gradient_nV * (1.0 - (logits_nV.double() / softcap).square())


def _compare(ours_nX: Tensor, full_nX: Tensor) -> Tensor:
    """Degrees and norm ratio [n, 2] of each row; NaN where `full_nX` is zero, 90 degrees where only `ours_nX` is.

    The angle is 2·atan2(‖a − b‖, ‖a + b‖) of the unit vectors a and b: an arc cosine has no digits near 0.
    """
    ours_n1, full_n1 = (side.norm(dim=1, keepdim=True) for side in (ours_nX, full_nX))
    tiny = torch.finfo(torch.float64).tiny
    a_nX, b_nX = ours_nX / ours_n1.clamp_min(tiny), full_nX / full_n1.clamp_min(tiny)
    degrees_n1 = torch.atan2((a_nX - b_nX).norm(dim=1, keepdim=True), (a_nX + b_nX).norm(dim=1, keepdim=True))
    found_n2 = torch.cat([degrees_n1 * (360.0 / math.pi), ours_n1 / full_n1], dim=1)
    return found_n2.masked_fill(full_n1 == 0, torch.nan)


def _mean(parts: list[Tensor]) -> GradientAngle:
    """Over all rows that have an angle; ValueError where none has."""
    found_N2 = torch.cat(parts)
    kept_N2 = found_N2[~found_N2.isnan().any(dim=1)]
    if not len(kept_N2):
        raise ValueError(
            "gradient_angles: full distillation has no gradient here, so nothing can be said of its direction; student "
            "and teacher agree exactly, or there are no positions"
        )
    degrees, norm_ratio = kept_N2.mean(dim=0).tolist()
    return GradientAngle(degrees, norm_ratio)
