"""Ranking as a third part of the loss, against autograd of the dense float64 formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.cache.layout import RecordLayout
from pipeline.distill import distillation_loss
from pipeline.distill.settings import Objective
from tests.cache.dense import records_of
from tests.distill import dense
from tests.distill.cases import HEADS, OBJECTIVES, Case, N, V, make_case, make_half_case, relative_error, spoil_masked

WEIGHTS = {"ce_weight": 0.3, "kd_weight": 0.7, "rank_weight": 0.5}


def dense_loss(case: Case, temperature: float, objective: str) -> tuple[Tensor, Tensor]:
    """Loss and rank, of `Case.dense_loss` and half of Plackett and Luce's model at temperature 1."""
    loss, _, _ = case.dense_loss(temperature, objective)
    rank_N = dense.rank(dense.dense_logits(case.hidden_ND, case.head), case.teacher)
    return loss + 0.5 * (case.weights_N * rank_N).sum() / 11.0, rank_N


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_equals_the_dense_formula(objective: Objective, temperature: float, kind: str) -> None:
    """Whatever the temperature of the objective, the order is judged at 1."""
    case = make_case(kind)
    parts = case.loss(temperature=temperature, objective=objective, **WEIGHTS)
    loss, rank_N = dense_loss(case, temperature, objective)
    torch.testing.assert_close(parts.rank_N.double(), rank_N.where(case.weights_N > 0, 0.0), rtol=1e-6, atol=5e-6)
    torch.testing.assert_close(parts.loss.double(), loss, rtol=1e-6, atol=2e-5)
    found, expected = torch.autograd.grad(parts.loss, case.leaves), torch.autograd.grad(loss, case.leaves)
    for ours, exact in zip(found, expected, strict=True):
        assert relative_error(ours, exact) < 2e-6


@pytest.mark.parametrize("kind", ["plain", "everything", "softcap"])
def test_order_alone(kind: str) -> None:
    """No other part has a weight: its gradient is all there is, and KD is not even looked at."""
    case = make_case(kind)
    parts = case.loss(temperature=2.0, ce_weight=0.0, kd_weight=0.0, rank_weight=1.0)
    rank_N = dense.rank(dense.dense_logits(case.hidden_ND, case.head), case.teacher)
    loss = (case.weights_N * rank_N).sum() / 11.0
    assert parts.kd_N is parts.effective_draws_N is None
    assert parts.agreement_N is not None
    torch.testing.assert_close(parts.loss.double(), loss, rtol=1e-5, atol=1e-6)
    found, expected = torch.autograd.grad(parts.loss, case.leaves), torch.autograd.grad(loss, case.leaves)
    assert all(relative_error(ours, exact) < 2e-6 for ours, exact in zip(found, expected, strict=True))


def test_without_weight_it_is_not_there() -> None:
    case = make_case()
    before, after = case.loss(temperature=2.0), case.loss(temperature=2.0, rank_weight=0.0)
    assert before.rank_N is after.rank_N is None
    assert torch.equal(before.loss, after.loss)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_masked_positions_change_nothing(temperature: float) -> None:
    case = make_case()
    before = case.loss(temperature=temperature, **WEIGHTS)
    expected = torch.autograd.grad(before.loss, case.leaves)
    masked_N = spoil_masked(case)
    after = case.loss(temperature=temperature, **WEIGHTS)
    assert torch.equal(before.loss, after.loss)
    assert (after.rank_N[masked_N] == 0).all()
    found = torch.autograd.grad(after.loss, case.leaves)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    case, half = make_half_case(dtype)
    loss, rank_N = dense_loss(case, 2.0, "bucket")
    parts = case.loss(temperature=2.0, objective="bucket", chunk_positions=128, **WEIGHTS)
    torch.testing.assert_close(parts.rank_N.double(), rank_N, rtol=1e-5, atol=1e-4)
    expected, found = torch.autograd.grad(loss, half), torch.autograd.grad(parts.loss * 2.0**14, half)
    for ours, exact in zip(found, expected, strict=True):
        assert relative_error(ours / 2.0**14, exact.double()) < (1e-3 if dtype == torch.float16 else 1e-2)


def test_autocast_takes_half_factors_and_leaves_float32_gradients() -> None:
    case = make_case("bias")
    expected = torch.autograd.grad(case.loss(**WEIGHTS).loss, case.leaves)
    with torch.autocast("cpu", torch.bfloat16):
        parts = case.loss(**WEIGHTS)
    assert parts.rank_N.dtype == torch.float32
    for ours, exact in zip(torch.autograd.grad(parts.loss, case.leaves), expected, strict=True):
        assert 1e-5 < relative_error(ours, exact.double()) < 3e-2


@pytest.mark.parametrize("changes", [{}, {"kd_weight": 0.0}, {"objective": "bucket", "kd_weight": 0.0}])
def test_sampled_records_have_no_order(changes: dict[str, Any]) -> None:
    case, layout = make_case(), RecordLayout.for_vocabulary(V, 0, 20, 1.0, kind="sampled")
    records = records_of(layout, case.teacher.logp_NV.numpy())
    assert len(records) == N
    with pytest.raises(ValueError, match=r"rank_weight 0, found 'bucket' and 0.5|found 'sampled_tail' and 0.5"):
        distillation_loss(case.hidden_ND, case.head, case.labels_N, records, rank_weight=0.5, **changes)
