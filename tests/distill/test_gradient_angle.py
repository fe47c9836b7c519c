"""Angles between gradients: against autograd of the dense float64 formulae, and where they are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.benches.gradient_angle import GradientAngle, gradient_angles, without_tail
from pipeline.distill.loss.record_tensors import RecordTensors
from pipeline.models.head import Head
from tests.distill import dense
from tests.distill.cases import OBJECTIVES, Case, K, N, V, make_case

KINDS = ("plain", "bias", "scale", "softcap", "padded")


def found(case: Case, objective: Any, temperature: float, **changes: Any) -> Any:
    given = {"chunk_positions": 10} | changes
    return gradient_angles(
        case.hidden_ND,
        case.head,
        case.labels_N,
        case.teacher.logp_NV,
        case.teacher.records,
        temperature,
        objective,
        **given,
    )


def by_autograd(case: Case, objective: str, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of τ²·KD by logits [N, V], hidden states [N, D] and output matrix [rows, D]."""
    hidden_ND, weight_VD = (leaf.detach().double().requires_grad_() for leaf in case.leaves[:2])
    bias_V = None if case.head.bias_V is None else case.head.bias_V.detach()
    head = Head(weight_VD, bias_V, case.head.scale, case.head.softcap, case.head.num_effective)
    logits_NV = dense.dense_logits(hidden_ND, head)
    if objective == "full":
        kd_N = dense.full_kl(logits_NV, case.teacher.logp_NV, temperature)
    else:
        kd_N = dense.kd(logits_NV, case.teacher, temperature, objective)
    return torch.autograd.grad(temperature**2 * kd_N.sum(), (logits_NV, hidden_ND, weight_VD))


def expected_angle(ours_NX: Tensor, full_NX: Tensor) -> GradientAngle:
    """By the arc cosine, row by row."""
    degrees, ratios = [], []
    for ours_X, full_X in zip(ours_NX.numpy(), full_NX.numpy(), strict=True):
        sizes = float(np.linalg.norm(ours_X)), float(np.linalg.norm(full_X))
        degrees.append(math.degrees(math.acos(float(ours_X @ full_X) / sizes[0] / sizes[1])))
        ratios.append(sizes[0] / sizes[1])
    return GradientAngle(float(np.mean(degrees)), float(np.mean(ratios)))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_is_what_autograd_of_the_dense_formula_says(kind: str, objective: Any, temperature: float) -> None:
    case = make_case(kind)
    ours, full = (by_autograd(case, name, temperature) for name in (objective, "full"))
    angles = found(case, objective, temperature)
    assert _close(angles.logits, expected_angle(ours[0], full[0]))
    assert _close(angles.hidden, expected_angle(ours[1], full[1]))
    assert _close(angles.weight, expected_angle(ours[2].reshape(1, -1), full[2].reshape(1, -1)))
    assert angles.logits.degrees > 0.1  # the tail of 32 of 40 ids is not nothing


def _close(found: GradientAngle, expected: GradientAngle) -> bool:
    return found.degrees == pytest.approx(expected.degrees, rel=1e-4, abs=1e-3) and found.norm_ratio == pytest.approx(
        expected.norm_ratio, rel=1e-4
    )


@pytest.mark.parametrize("temperature", [1.0, 1.3, 4.0])
@pytest.mark.parametrize("objective", ["bucket", "sampled_tail", "subset"])
def test_nothing_is_between_them_where_the_head_is_everything(objective: Any, temperature: float) -> None:
    angles = found(make_case("everything"), objective, temperature)
    for angle in (angles.logits, angles.hidden, angles.weight):
        assert angle.degrees < 1e-3
        assert angle.norm_ratio == pytest.approx(1.0, rel=1e-5)


def test_chunks_change_nothing() -> None:
    case = make_case("softcap")
    whole, cut = (found(case, "bucket", 2.0, chunk_positions=size) for size in (N, 7))
    for one, other in ((whole.logits, cut.logits), (whole.hidden, cut.hidden), (whole.weight, cut.weight)):
        assert one.degrees == pytest.approx(other.degrees, rel=1e-6)
        assert one.norm_ratio == pytest.approx(other.norm_ratio, rel=1e-6)


def test_draws_that_are_right_on_average_close_in_on_the_sum() -> None:
    """Position by position the estimate is far off; summed over many, its direction is full KD's, and bucket's is not.

    4,096 positions of one hidden state and one teacher row, with draws of their own.
    """
    count = 4096
    case = make_case(count=count)
    row_NV = case.teacher.logp_NV[:1].expand(count, -1)
    case.teacher = dense.make_teacher(row_NV, K, num_draws=4)
    case.hidden_ND = case.hidden_ND.detach()[:1].expand(count, -1)
    drawn, bucket = (found(case, name, 2.0, chunk_positions=512) for name in ("sampled_tail", "bucket"))
    assert drawn.weight.degrees < drawn.logits.degrees / 20
    assert drawn.weight.norm_ratio == pytest.approx(1.0, abs=0.02)
    assert bucket.weight.degrees == pytest.approx(bucket.logits.degrees, rel=1e-4)
    assert bucket.weight.degrees > 5 * drawn.weight.degrees


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_bucket_without_a_tail_is_the_usual_top_k(temperature: float) -> None:
    """Cross-entropy of the student over all ids against the teacher's head, renormalised."""
    case = make_case()
    records = without_tail(RecordTensors.from_records(case.teacher.records, "cpu"))
    angles = gradient_angles(
        case.hidden_ND, case.head, case.labels_N, case.teacher.logp_NV, records, temperature, "bucket"
    )

    hidden_ND, weight_VD = (leaf.detach().double().requires_grad_() for leaf in case.leaves)
    logq_NV = ((hidden_ND @ weight_VD.T) / temperature).log_softmax(1)
    head_NV = (case.teacher.logp_NV / temperature).masked_fill(case.teacher.tail_NV, -torch.inf).softmax(1)
    usual = -(temperature**2) * (head_NV * logq_NV).sum()
    ours, full = torch.autograd.grad(usual, (hidden_ND, weight_VD)), by_autograd(case, "full", temperature)[1:]
    assert _close(angles.hidden, expected_angle(ours[0], full[0]))
    assert _close(angles.weight, expected_angle(ours[1].reshape(1, -1), full[1].reshape(1, -1)))


def test_without_a_matrix_there_are_only_logits() -> None:
    case = make_case("logits")
    angles = found(case, "bucket", 1.0)
    exact_NV = case.hidden_ND.detach().double()[:, :V].requires_grad_()
    ours, full = (dense.kd(exact_NV, case.teacher, 1.0, "bucket"), dense.full_kl(exact_NV, case.teacher.logp_NV, 1.0))
    gradients = [torch.autograd.grad(kd_N.sum(), exact_NV)[0] for kd_N in (ours, full)]
    assert _close(angles.logits, expected_angle(*gradients))
    assert angles.hidden is angles.weight is None


def test_it_leaves_gradients_and_their_switch_alone() -> None:
    case = make_case()
    with torch.no_grad():
        quiet = found(case, "bucket", 1.0)
    assert quiet == found(case, "bucket", 1.0)
    assert all(leaf.grad is None for leaf in case.leaves)


def test_refuses_what_has_no_answer() -> None:
    case = make_case()
    arguments = (case.hidden_ND, case.head, case.labels_N)
    with pytest.raises(ValueError, match=r"expected teacher logits \[37, 40 or more\].*found \(36, 40\)"):
        gradient_angles(*arguments, case.teacher.logp_NV[1:], case.teacher.records)
    with pytest.raises(ValueError, match=r"expected teacher logits.*found \(37, 39\)"):
        gradient_angles(*arguments, case.teacher.logp_NV[:, 1:], case.teacher.records)
    same_NV = case.head.logits_float32(case.hidden_ND)
    with pytest.raises(ValueError, match="full distillation has no gradient here"):
        gradient_angles(*arguments, same_NV, dense.make_teacher(same_NV, K, 2).records)
