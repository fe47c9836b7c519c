"""distillation_loss through the output matrix, against the dense float64 formula."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.distill import distillation_loss
from pipeline.distill.settings import Objective
from tests.distill import dense
from tests.distill.cases import (
    HEADS,
    OBJECTIVES,
    TEMPERATURES,
    K,
    N,
    make_case,
    relative_error,
    replace_records,
    spoil_masked,
)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_equals_the_dense_formula(objective: Objective, temperature: float, kind: str) -> None:
    case = make_case(kind)
    parts = case.loss(temperature=temperature, objective=objective)
    loss, ce_N, kd_N = case.dense_loss(temperature, objective)
    kept_N = case.weights_N > 0
    interpolated = 2e-4 if temperature == 1.3 else 5e-6  # the tail mass, between stored temperatures
    torch.testing.assert_close(parts.ce_N.double(), ce_N.where(kept_N, 0.0), rtol=1e-6, atol=5e-6)
    torch.testing.assert_close(parts.kd_N.double(), kd_N.where(kept_N, 0.0), rtol=1e-6, atol=interpolated)
    torch.testing.assert_close(parts.loss.double(), loss, rtol=1e-6, atol=5 * interpolated)
    found, expected = torch.autograd.grad(parts.loss, case.leaves), torch.autograd.grad(loss, case.leaves)
    for ours, exact in zip(found, expected, strict=True):
        assert relative_error(ours, exact) < (2e-5 if temperature == 1.3 else 1e-6)


@pytest.mark.parametrize("count", [1, 2, 10, 11])
def test_few_positions(count: int) -> None:
    case = make_case(count=count)
    case.weights_N = torch.ones(count)
    parts, (loss, _, _) = case.loss(), case.dense_loss(1.0, "sampled_tail")
    torch.testing.assert_close(parts.loss.double(), loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("vocab_size", [1, 2, 3])
def test_small_vocabularies(vocab_size: int, objective: Objective) -> None:
    case = make_case(vocab_size=vocab_size, head_size=2)
    parts, (loss, _, _) = case.loss(objective=objective), case.dense_loss(1.0, objective)
    torch.testing.assert_close(parts.loss.double(), loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_masked_positions_change_nothing(temperature: float, objective: Objective) -> None:
    """Neither their hidden states (infinite ones included), labels, nor records reach the loss or a gradient."""
    case = make_case()
    before = case.loss(temperature=temperature, objective=objective)
    expected = torch.autograd.grad(before.loss, case.leaves)
    masked_N = spoil_masked(case)
    after = case.loss(temperature=temperature, objective=objective)
    found = torch.autograd.grad(after.loss, case.leaves)
    assert torch.equal(before.loss, after.loss)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert (found[0][masked_N] == 0).all()
    assert (after.effective_draws_N is not None) == (objective == "sampled_tail")
    for part_N in (after.ce_N, after.kd_N, after.agreement_N, after.effective_draws_N):
        assert part_N is None or (part_N[masked_N] == 0).all()


def test_nothing_but_masked_positions() -> None:
    case = make_case()
    case.weights_N = torch.zeros(N)
    parts = case.loss(normaliser=None)
    gradients = torch.autograd.grad(parts.loss, case.leaves)
    assert parts.loss == 0
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("kind", ["plain", "softcap"])
def test_chunk_size_changes_nothing(kind: str) -> None:
    case = make_case(kind)
    expected = torch.autograd.grad(case.loss(temperature=2.0, chunk_positions=N).loss, case.leaves)
    for chunk_positions in (1, 7, 10_000):
        found = torch.autograd.grad(case.loss(temperature=2.0, chunk_positions=chunk_positions).loss, case.leaves)
        for ours, whole in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-6)


def test_same_call_same_bits() -> None:
    first, second = (torch.autograd.grad((case := make_case()).loss().loss, case.leaves) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_weights_and_normaliser() -> None:
    """By default a weighted mean; a normaliser given as a number or a tensor divides instead."""
    case = make_case()
    mean, by_number = case.loss(normaliser=None).loss, case.loss(normaliser=4.0).loss
    torch.testing.assert_close(mean * case.weights_N.sum(), by_number * 4.0)
    torch.testing.assert_close(case.loss(normaliser=torch.tensor(4.0)).loss, by_number)
    unweighted, ones = case.loss(weights_N=None, normaliser=None), case.loss(weights_N=torch.ones(N), normaliser=N)
    torch.testing.assert_close(unweighted.loss, ones.loss)
    torch.testing.assert_close(unweighted.loss, (0.3 * ones.ce_N + 0.7 * ones.kd_N).mean())  # type: ignore[operator]


@pytest.mark.parametrize("without", ["records", "kd_weight"])
def test_labels_only(without: str) -> None:
    case = make_case("padded")
    records, kd_weight = (None, 0.7) if without == "records" else (case.teacher.records, 0.0)
    parts = distillation_loss(
        case.hidden_ND, case.head, case.labels_N, records, ce_weight=1.0, kd_weight=kd_weight, chunk_positions=10
    )
    logits_NV = dense.dense_logits(case.hidden_ND, case.head)
    loss = torch.nn.functional.cross_entropy(logits_NV, case.labels_N)
    torch.testing.assert_close(parts.loss.double(), loss, rtol=1e-6, atol=1e-6)
    found, expected = torch.autograd.grad(parts.loss, case.leaves), torch.autograd.grad(loss, case.leaves)
    assert all(relative_error(ours, exact) < 1e-6 for ours, exact in zip(found, expected, strict=True))
    assert parts.kd_N is parts.agreement_N is parts.effective_draws_N is None


def test_teacher_only() -> None:
    """Without a weight on the labels their cross-entropy is still reported."""
    case = make_case()
    parts, (_, ce_N, kd_N) = (
        case.loss(ce_weight=0.0, kd_weight=1.0, temperature=2.0),
        case.dense_loss(2.0, "sampled_tail"),
    )
    torch.testing.assert_close(parts.loss.double(), (case.weights_N * 4.0 * kd_N).sum() / 11.0, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.ce_N.double(), ce_N.where(case.weights_N > 0, 0.0), rtol=1e-5, atol=1e-5)


def test_padded_head_entries_do_not_count() -> None:
    """A ragged head is padded with id 2³²−1 and log-probability −inf."""
    case = make_case()
    short = case.teacher.records
    layout = replace(short.layout, head_size=K + 3)
    ids_NK, logprobs_NK = type(short).blank(layout, N).ids_TK, type(short).blank(layout, N).logprobs_TK
    ids_NK[:], logprobs_NK[:] = 2**32 - 1, float("-inf")
    ids_NK[:, :K], logprobs_NK[:, :K] = short.ids_TK, short.logprobs_TK
    padded = replace(short, layout=layout, ids_TK=ids_NK, logprobs_TK=logprobs_NK)
    for objective in OBJECTIVES:
        expected = case.loss(temperature=2.0, objective=objective)
        gradients = torch.autograd.grad(expected.loss, case.leaves)
        found = replace(case, teacher=replace_records(case.teacher, padded)).loss(temperature=2.0, objective=objective)
        torch.testing.assert_close(found.kd_N, expected.kd_N)
        for ours, exact in zip(torch.autograd.grad(found.loss, case.leaves), gradients, strict=True):
            torch.testing.assert_close(ours, exact)
