"""How distillation_loss hands out its gradients: once, scaled, in chunks, in half precision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.distill import RecordTensors, distillation_loss
from pipeline.distill.settings import Objective
from pipeline.models.head import Head
from tests.distill.cases import (
    OBJECTIVES,
    N,
    make_case,
    make_drawless,
    relative_error,
)


def test_without_gradients_the_numbers_are_the_same() -> None:
    case = make_case("softcap")
    expected = case.loss(temperature=2.0)
    with torch.no_grad():
        found = case.loss(temperature=2.0)
    assert not found.loss.requires_grad
    assert torch.equal(found.loss, expected.loss.detach())
    assert found.kd_N is not None
    assert torch.equal(found.kd_N, expected.kd_N)


def test_the_callers_logits_are_left_alone() -> None:
    case = make_case("logits")
    case.weights_N = torch.ones(N)  # nothing to leave out, hence nothing copied on the way
    before = case.hidden_ND.detach().clone()
    case.loss().loss.backward()
    assert torch.equal(case.hidden_ND.detach(), before)


@pytest.mark.parametrize("wanted", ["hidden_ND", "weight_VD"])
def test_only_the_gradients_that_are_wanted(wanted: str) -> None:
    case = make_case()
    expected = dict(zip(("hidden_ND", "weight_VD"), torch.autograd.grad(case.loss().loss, case.leaves), strict=True))
    leaves = {"hidden_ND": case.hidden_ND, "weight_VD": case.head.weight_VD}
    for name, leaf in leaves.items():
        leaf.requires_grad_(name == wanted)
    case.loss().loss.backward()
    assert torch.equal(leaves[wanted].grad, expected[wanted])
    assert all(leaf.grad is None for name, leaf in leaves.items() if name != wanted)


def test_gradients_are_given_out_once() -> None:
    loss = make_case().loss().loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="call it again for another backward"):
        loss.backward()


def test_the_incoming_gradient_is_applied() -> None:
    """As a GradScaler does: a factor on the loss is a factor on every gradient."""
    case = make_case()
    plain = torch.autograd.grad(case.loss().loss, case.leaves)
    scaled = torch.autograd.grad(case.loss().loss * 2.0**16, case.leaves)
    assert all(torch.equal(a * 2.0**16, b) for a, b in zip(plain, scaled, strict=True))


class _LargestTensor(TorchDispatchMode):
    """Notes the size of the largest tensor any operation returns, in forward and in backward."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return result


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_never_makes_the_whole_logits(objective: Objective) -> None:
    count, vocab_size, chunk_positions = 128, 1_000, 16
    case = make_case("softcap", count=count, vocab_size=vocab_size)
    with _LargestTensor() as seen:
        case.loss(temperature=2.0, objective=objective, chunk_positions=chunk_positions).loss.backward()
    assert seen.largest == chunk_positions * vocab_size


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype, objective: Objective) -> None:
    """Only the factors of the products are rounded: gradients are as good as that, in fp16 with 4,096 positions too."""
    count, vocab_size = 4096, 1024
    case = make_case("bias", count=count, vocab_size=vocab_size)
    case.weights_N = torch.ones(count)
    half = [leaf.detach().to(dtype).requires_grad_() for leaf in case.leaves]
    case.hidden_ND, case.head = half[0], Head(half[1], half[2])
    loss, _, kd_N = case.dense_loss(2.0, objective)
    parts = case.loss(temperature=2.0, objective=objective, chunk_positions=512)
    torch.testing.assert_close(parts.kd_N.double(), kd_N, rtol=1e-5, atol=1e-4)
    expected = torch.autograd.grad(loss, half)
    factor = 2.0 ** (12 if objective == "sampled_tail" else 14)  # the scaler's; a leaf's own dtype holds the result
    found = torch.autograd.grad(parts.loss * factor, half)
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        assert relative_error(ours / factor, exact.double()) < (1e-3 if dtype == torch.float16 else 1e-2)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
def test_autocast_takes_half_factors_and_leaves_float32_gradients(
    dtype: torch.dtype, most: float, objective: Objective
) -> None:
    """As a training in float16 does it: weights in float32, and the factor of a scaler before backward."""
    case = make_case("bias")
    loss, _, _ = case.dense_loss(2.0, objective)
    expected = torch.autograd.grad(loss, case.leaves)
    with torch.autocast("cpu", dtype):
        parts = case.loss(temperature=2.0, objective=objective)
    found = torch.autograd.grad(parts.loss * 2.0**14, case.leaves)
    assert parts.loss.dtype == parts.ce_N.dtype == torch.float32
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert 1e-6 < relative_error(ours / 2.0**14, exact.double()) < most


def test_records_may_be_on_the_device_already() -> None:
    case = make_case()
    tensors = RecordTensors.from_records(case.teacher.records, "cpu")
    found = distillation_loss(case.hidden_ND, case.head, case.labels_N, tensors)
    expected = distillation_loss(case.hidden_ND, case.head, case.labels_N, case.teacher.records)
    assert torch.equal(found.loss, expected.loss)


def test_refuses_what_cannot_be_meant() -> None:
    case = make_case()
    arguments = {"hidden_ND": case.hidden_ND, "head": case.head, "labels_N": case.labels_N}
    arguments |= {"records": case.teacher.records}
    changes: list[tuple[str, dict[str, Any]]] = [
        (r"hidden_ND must be \[N, D\], found \(1, 37, 12\)", {"hidden_ND": case.hidden_ND[None]}),
        (r"labels_N must have shape \(37,\).*found \(36,\)", {"labels_N": case.labels_N[1:]}),
        (r"weights_N must have shape \(37,\).*found \(1,\)", {"weights_N": torch.ones(1)}),
        ("expected 37 records, found 36", {"records": case.teacher.records.rows(slice(1, None))}),
        (r"over 40 ids and the student's head over 39; give", {"head": replace(case.head, num_effective=39)}),
        (r"must be in \[1, 4\].*found 4.5", {"temperature": 4.5}),
        (r"must be in \[1, 4\].*found 0.5", {"temperature": 0.5}),
        ("objective must be one of .*found 'full'", {"objective": "full"}),
        ("chunk_positions must be at least 1, found 0", {"chunk_positions": 0}),
        ("sampled_tail: expected tail draws", {"records": make_drawless().records}),
    ]
    for message, change in changes:
        with pytest.raises(ValueError, match=message):
            distillation_loss(**(arguments | change))
