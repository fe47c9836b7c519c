"""distillation_loss through the output matrix, against the dense float64 formula."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.distill import LossParts, RecordTensors, distillation_loss
from pipeline.distill.settings import Objective
from pipeline.models.head import Head
from tests.distill import dense

OBJECTIVES: tuple[Objective, ...] = ("sampled_tail", "bucket", "subset")
TEMPERATURES = (1.0, 1.3, 2.0, 3.0)
HEADS = ("plain", "bias", "scale", "softcap", "padded", "everything", "logits")
N, D, V, K, M = 37, 12, 40, 8, 5


@dataclass
class Case:
    """A problem of N positions, in float32 leaves that want gradients."""

    hidden_ND: Tensor
    head: Head
    labels_N: Tensor
    weights_N: Tensor
    teacher: dense.Teacher

    @property
    def leaves(self) -> list[Tensor]:
        return [leaf for leaf in (self.hidden_ND, self.head.weight_VD, self.head.bias_V) if leaf is not None]

    def loss(self, **changes: Any) -> LossParts:
        defaults = {"weights_N": self.weights_N, "normaliser": 11.0, "chunk_positions": 10, "ce_weight": 0.3}
        given = defaults | {"kd_weight": 0.7} | changes
        return distillation_loss(self.hidden_ND, self.head, self.labels_N, self.teacher.records, **given)

    def dense_loss(self, temperature: float, objective: str) -> tuple[Tensor, Tensor, Tensor]:
        logits_NV = dense.dense_logits(self.hidden_ND, self.head)
        ce_N = dense.cross_entropy(logits_NV, self.labels_N)
        kd_N = dense.kd(logits_NV, self.teacher, temperature, objective)
        return (self.weights_N * (0.3 * ce_N + 0.7 * temperature**2 * kd_N)).sum() / 11.0, ce_N, kd_N


def make_case(kind: str = "plain", count: int = N, vocab_size: int = V, head_size: int = K) -> Case:
    generator = torch.Generator().manual_seed(5)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    rows = vocab_size + 6 if kind in ("padded", "logits") else vocab_size
    weight_VD, bias_V, hidden_ND = leaf(rows, D), leaf(rows), leaf(count, D)
    head = Head(weight_VD, num_effective=vocab_size)
    if kind == "bias":
        head = Head(weight_VD, bias_V)
    elif kind == "scale":
        head = Head(weight_VD, bias_V, scale=0.4)
    elif kind == "softcap":
        head = Head(weight_VD, bias_V, scale=1.3, softcap=2.0)
    elif kind == "logits":
        head, hidden_ND = Head(None, num_effective=vocab_size), leaf(count, rows)
    teacher_NV = 2.5 * torch.randn(count, vocab_size, generator=generator)
    head_size = vocab_size if kind == "everything" else head_size
    return Case(
        hidden_ND,
        head,
        torch.randint(0, vocab_size, (count,), generator=generator),
        torch.rand(count, generator=generator) * (torch.rand(count, generator=generator) > 0.3),
        dense.make_teacher(teacher_NV, head_size, M),
    )


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


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


@pytest.mark.parametrize("vocab_size", [1, 2, 3])
def test_small_vocabularies(vocab_size: int) -> None:
    case = make_case(vocab_size=vocab_size, head_size=2)
    parts, (loss, _, _) = case.loss(), case.dense_loss(1.0, "sampled_tail")
    torch.testing.assert_close(parts.loss.double(), loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_masked_positions_change_nothing(temperature: float) -> None:
    """Neither their hidden states (infinite ones included), labels, nor records reach the loss or a gradient."""
    case = make_case()
    masked_N = case.weights_N == 0
    assert masked_N.any()
    before = case.loss(temperature=temperature)
    expected = torch.autograd.grad(before.loss, case.leaves)
    with torch.no_grad():
        case.hidden_ND[masked_N] = torch.inf
    case.labels_N[masked_N] = -100
    for field in case.teacher.records.fields():
        field[masked_N.numpy()] = 0
    after = case.loss(temperature=temperature)
    found = torch.autograd.grad(after.loss, case.leaves)
    assert torch.equal(before.loss, after.loss)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert (found[0][masked_N] == 0).all()
    for part_N in (after.ce_N, after.kd_N, after.agreement_N, after.effective_draws_N):
        assert part_N is not None
        assert (part_N[masked_N] == 0).all()


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


def replace_records(teacher: dense.Teacher, records: Any) -> dense.Teacher:
    changed = dense.Teacher(teacher.logp_NV, teacher.records)
    changed.records = records
    return changed


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Only the factors of the products are rounded: gradients are as good as that, in fp16 with 4,096 positions too."""
    count, vocab_size = 4096, 1024
    case = make_case("bias", count=count, vocab_size=vocab_size)
    case.weights_N = torch.ones(count)
    half = [leaf.detach().to(dtype).requires_grad_() for leaf in case.leaves]
    case.hidden_ND, case.head = half[0], Head(half[1], half[2])
    loss, _, kd_N = case.dense_loss(2.0, "bucket")
    parts = case.loss(temperature=2.0, objective="bucket", chunk_positions=512)
    torch.testing.assert_close(parts.kd_N.double(), kd_N, rtol=1e-5, atol=1e-4)
    expected = torch.autograd.grad(loss, half)
    found = torch.autograd.grad(parts.loss * 2.0**14, half)  # the scaler's factor: a leaf's own dtype holds the result
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        assert relative_error(ours / 2.0**14, exact.double()) < (1e-3 if dtype == torch.float16 else 1e-2)


def test_autocast_takes_half_factors_and_leaves_float32_gradients() -> None:
    case = make_case("bias")
    expected = torch.autograd.grad(case.loss(temperature=2.0).loss, case.leaves)
    with torch.autocast("cpu", torch.bfloat16):
        parts = case.loss(temperature=2.0)
    found = torch.autograd.grad(parts.loss, case.leaves)
    assert parts.loss.dtype == parts.ce_N.dtype == torch.float32
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert 1e-5 < relative_error(ours, exact.double()) < 3e-2


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


def make_drawless() -> dense.Teacher:
    return dense.make_teacher(torch.randn(N, V, generator=torch.Generator().manual_seed(0)), K, num_draws=0)
