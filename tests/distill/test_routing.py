"""Routers: what they see of a position, what they make of it, and what the loss makes of that."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.cache.layout import RecordLayout
from pipeline.distill import distillation_loss
from pipeline.distill.loss.routing import LEAST_TRUST, PARTS, Gap, Normalised, Router, Signal, Trust
from pipeline.distill.settings import Objective
from pipeline.models.head import Head
from tests.cache.dense import records_of
from tests.distill import dense
from tests.distill.cases import HEADS, OBJECTIVES, Case, V, make_case, make_half_case, relative_error, spoil_masked

WEIGHTS = {"ce_weight": 0.3, "kd_weight": 0.7, "rank_weight": 0.5}


@dataclass(frozen=True)
class Waves:
    """A router unlike any other: every signal moves every part, differently."""

    asks_entropy: bool = True

    def route(self, signals_n6: Tensor) -> Tensor:
        mixed_n1 = signals_n6.sum(1, keepdim=True)
        return 1.5 + torch.sin(mixed_n1 * torch.arange(1, 4, dtype=signals_n6.dtype))


@dataclass(frozen=True)
class Ones:
    asks_entropy: bool = False

    def route(self, signals_n6: Tensor) -> Tensor:
        return torch.ones(len(signals_n6), 3)


def dense_signals(case: Case) -> Tensor:
    """The six of every position, from whole distributions in float64."""
    logp_NV, ids_NK = case.teacher.logp_NV, torch.from_numpy(case.teacher.records.ids_TK.astype(np.int64))
    logq_NV = dense.dense_logits(case.hidden_ND.detach(), case.head).log_softmax(1)
    label_N = logp_NV.gather(1, case.labels_N[:, None])[:, 0]
    columns = {
        Signal.TEACHER_ENTROPY: -(logp_NV.exp() * logp_NV).sum(1),
        Signal.TEACHER_LABEL: label_N,
        Signal.HEAD_MASS: logp_NV.gather(1, ids_NK).exp().sum(1),
        Signal.STUDENT_ENTROPY: -(logq_NV.exp() * logq_NV).sum(1),
        Signal.GAP: label_N - logq_NV.gather(1, case.labels_N[:, None])[:, 0],
        Signal.AGREES: (logq_NV.argmax(1) == logp_NV.argmax(1)).double(),
    }
    return torch.stack([columns[signal] for signal in Signal], dim=1).detach()


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("objective", ["sampled_tail", "subset"])
def test_what_a_router_sees(objective: Objective, temperature: float, kind: str) -> None:
    case = make_case(kind)
    parts = case.loss(temperature=temperature, objective=objective, router=Waves())
    kept_N1 = (case.weights_N > 0)[:, None]
    expected_N6 = dense_signals(case).where(kept_N1, 0.0)
    torch.testing.assert_close(parts.signals_N6.double(), expected_N6, rtol=1e-5, atol=1e-5)
    assert torch.equal(parts.routes_N3, Waves().route(parts.signals_N6).where(kept_N1, 0.0))


@pytest.mark.parametrize("head_size", [1, 5, 30])
def test_the_entropy_of_extreme_students(head_size: int) -> None:
    """Sure of an id in the head or in the tail, of none, of some alone; with a head that is everything, too."""
    student_NV = torch.zeros(4, 30)
    student_NV[0, 3], student_NV[1, 29] = 200.0, 80.0
    student_NV[3, 10:] = -1e4
    teacher = dense.make_teacher(torch.arange(30.0, 0.0, -1.0).expand(4, -1), head_size, num_draws=2)
    labels_N = torch.zeros(4, dtype=torch.int64)
    parts = distillation_loss(student_NV, Head(None), labels_N, teacher.records, router=Waves())
    expected_N = torch.tensor([0.0, 0.0, math.log(30), math.log(10)])
    torch.testing.assert_close(parts.signals_N6[:, Signal.STUDENT_ENTROPY], expected_N, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("router", [Waves(), Gap(), Trust(), Normalised(Trust(), (0.4, 0.8, 1.7))], ids=str)
def test_routed_loss_and_gradient(router: Router, objective: Objective, temperature: float, kind: str) -> None:
    """Each part of each position by its own weight, through which no gradient flows."""
    case = make_case(kind)
    parts = case.loss(temperature=temperature, objective=objective, router=router, **WEIGHTS)
    loss, routes_N3 = dense_routed(case, router, temperature, objective)
    torch.testing.assert_close(parts.routes_N3.double(), routes_N3, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(parts.loss.double(), loss, rtol=1e-4, atol=2e-5)
    found, expected = torch.autograd.grad(parts.loss, case.leaves), torch.autograd.grad(loss, case.leaves)
    for ours, exact in zip(found, expected, strict=True):
        assert relative_error(ours, exact) < 5e-5


def dense_routed(case: Case, router: Router, temperature: float, objective: str) -> tuple[Tensor, Tensor]:
    logits_NV, kept_N1 = dense.dense_logits(case.hidden_ND, case.head), (case.weights_N > 0)[:, None]
    routes_N3 = router.route(dense_signals(case)).where(kept_N1, 0.0)
    losses_N3 = torch.stack(
        [
            0.3 * dense.cross_entropy(logits_NV, case.labels_N),
            0.7 * temperature**2 * dense.kd(logits_NV, case.teacher, temperature, objective),
            0.5 * dense.rank(logits_NV, case.teacher),
        ],
        dim=1,
    )
    return (case.weights_N[:, None] * routes_N3 * losses_N3).sum() / 11.0, routes_N3


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_ones_are_no_router_to_the_bit(temperature: float) -> None:
    case = make_case("softcap")
    plain, ones = (case.loss(temperature=temperature, router=router, **WEIGHTS) for router in (None, Ones()))
    assert plain.routes_N3 is plain.signals_N6 is None
    assert torch.equal(plain.loss, ones.loss)
    gradients = [torch.autograd.grad(parts.loss, case.leaves) for parts in (plain, ones)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_masked_positions_change_nothing() -> None:
    case = make_case()
    before = case.loss(router=Waves(), **WEIGHTS)
    expected = torch.autograd.grad(before.loss, case.leaves)
    masked_N = spoil_masked(case)
    after = case.loss(router=Waves(), **WEIGHTS)
    assert torch.equal(before.loss, after.loss)
    found = torch.autograd.grad(after.loss, case.leaves)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert (after.routes_N3[masked_N] == 0).all()
    assert (after.signals_N6[masked_N] == 0).all()


def test_routes_do_not_depend_on_chunks() -> None:
    case = make_case()
    whole, cut = (case.loss(router=Waves(), chunk_positions=size, **WEIGHTS) for size in (1_000, 3))
    torch.testing.assert_close(whole.routes_N3, cut.routes_N3, rtol=1e-5, atol=1e-5)


def test_labels_alone_may_be_routed() -> None:
    """By a teacher that is not learned from: with records and a router the cross-entropy is weighed."""
    case = make_case()
    parts = case.loss(ce_weight=1.0, kd_weight=0.0, router=Trust())
    routes_N3 = Trust().route(dense_signals(case))
    ce_N = dense.cross_entropy(dense.dense_logits(case.hidden_ND, case.head), case.labels_N)
    loss = (case.weights_N * routes_N3[:, 0] * ce_N).sum() / 11.0
    assert parts.kd_N is None
    torch.testing.assert_close(parts.loss.double(), loss, rtol=1e-5, atol=1e-6)
    found, expected = torch.autograd.grad(parts.loss, case.leaves), torch.autograd.grad(loss, case.leaves)
    assert all(relative_error(ours, exact) < 1e-5 for ours, exact in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    case, half = make_half_case(dtype)
    loss, routes_N3 = dense_routed(case, Trust(), 2.0, "bucket")
    parts = case.loss(temperature=2.0, objective="bucket", chunk_positions=128, router=Trust(), **WEIGHTS)
    assert parts.routes_N3.dtype == torch.float32
    torch.testing.assert_close(parts.routes_N3.double(), routes_N3, rtol=1e-4, atol=1e-4)
    expected, found = torch.autograd.grad(loss, half), torch.autograd.grad(parts.loss * 2.0**14, half)
    for ours, exact in zip(found, expected, strict=True):
        assert relative_error(ours / 2.0**14, exact.double()) < (1e-3 if dtype == torch.float16 else 1e-2)


def test_autocast_routes_in_float32() -> None:
    case = make_case("bias")
    plain = case.loss(router=Waves(), **WEIGHTS)
    with torch.autocast("cpu", torch.bfloat16):
        parts = case.loss(router=Waves(), **WEIGHTS)
    assert parts.signals_N6.dtype == parts.routes_N3.dtype == torch.float32
    torch.testing.assert_close(parts.signals_N6[:, :3], plain.signals_N6[:, :3])
    assert (parts.signals_N6[:, 3:5] - plain.signals_N6[:, 3:5]).abs().max() < 0.2


def test_sampled_records_may_be_routed() -> None:
    """Their label log-probabilities and entropies are stored as of any kind; their head is all there is to see."""
    case, layout = make_case(), RecordLayout.for_vocabulary(V, 0, 20, 1.0, kind="sampled")
    records = records_of(layout, case.teacher.logp_NV.numpy())
    records.label_logprobs_T[:] = case.teacher.records.label_logprobs_T
    parts = distillation_loss(case.hidden_ND, case.head, case.labels_N, records, router=Trust())
    torch.testing.assert_close(parts.signals_N6[:, Signal.HEAD_MASS], torch.ones(len(records)))
    excess_N = (-records.label_logprobs_T - records.entropies_T).clip(0)
    trust_N = LEAST_TRUST + (1 - LEAST_TRUST) * np.exp(-excess_N)
    np.testing.assert_allclose(parts.routes_N3[:, 1], trust_N, rtol=1e-5)


# ------------------------------------------------------------------ kinds


def signals(**columns: list[float]) -> Tensor:
    count = len(next(iter(columns.values())))
    given = {Signal[name.upper()]: values for name, values in columns.items()}
    return torch.tensor([given.get(signal, [0.0] * count) for signal in Signal]).T


def test_gap_weighs_what_the_student_has_yet_to_learn() -> None:
    routes_n3 = Gap().route(signals(gap=[-3.0, 0.0, 1.0, 3.0, 1e9]))
    assert routes_n3[:, 0].tolist() == pytest.approx([0.5, 0.5, 1.0, 1.25, 1.5])
    assert torch.equal(routes_n3, routes_n3[:, :1].expand(-1, 3))


def test_gap_of_real_positions() -> None:
    """Of students with the teacher's logits, and with its likeliest id pushed down: the second has more to learn."""
    teacher = dense.make_teacher(torch.tensor([[4.0, 2.0, 1.0, 0.0]]).expand(2, -1), head_size=2, num_draws=2)
    teacher.records.label_logprobs_T[:] = teacher.logp_NV[:, 0].numpy()
    student_NV = torch.tensor([[4.0, 2.0, 1.0, 0.0], [0.0, 2.0, 1.0, 0.0]])
    parts = distillation_loss(student_NV, Head(None), torch.zeros(2, dtype=torch.int64), teacher.records, router=Gap())
    same, lagging = parts.routes_N3[:, 1].tolist()
    assert same == pytest.approx(0.5, abs=1e-5)
    lag = float(student_NV[1].double().logsumexp(0) + teacher.logp_NV[1, 0])
    assert lagging == pytest.approx(0.5 + lag / (1 + lag), rel=1e-5)


def test_trust_is_for_a_teacher_that_is_right_or_close() -> None:
    right, close = (-0.01, 0.05), (-2.0, 2.5)
    unsure_and_off, wrong = (-4.0, 2.5), (-9.0, 0.1)
    facts = list(zip(right, close, unsure_and_off, wrong, strict=True))
    routes_n3 = Trust().route(signals(teacher_label=list(facts[0]), teacher_entropy=list(facts[1])))
    kd_n, ce_n = routes_n3[:, 1], routes_n3[:, 0]
    assert kd_n[:2].tolist() == pytest.approx([1.0, 1.0])
    assert kd_n[2] == pytest.approx(0.1 + 0.9 * math.exp(-1.5))
    assert kd_n[3] == pytest.approx(0.1 + 0.9 * math.exp(-8.9))
    torch.testing.assert_close(kd_n + ce_n, torch.full((4,), 1.1))
    assert torch.equal(kd_n, routes_n3[:, 2])


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_trust_in_what_the_teacher_puts_first_is_whole(scale: float) -> None:
    """Its first choice surprises it no more than it expects: −log max p ≤ entropy, whatever the distribution."""
    logp_NV = (scale * torch.randn(200, 50, generator=torch.Generator().manual_seed(0)).double()).log_softmax(1)
    entropies = (-(logp_NV.exp() * logp_NV).sum(1)).tolist()
    routes_n3 = Trust().route(signals(teacher_label=logp_NV.amax(1).tolist(), teacher_entropy=entropies))
    torch.testing.assert_close(routes_n3[:, 1], torch.ones(200))


def test_normalised_takes_means_out() -> None:
    given_n6 = signals(gap=[0.0, 1.0, 3.0])
    routes_n3 = Normalised(Gap(), (0.5, 1.0, 2.0)).route(given_n6)
    assert routes_n3.tolist() == [[1, 0.5, 0.25], [2, 1, 0.5], [2.5, 1.25, 0.625]]
    assert Normalised(Waves(), (1.0, 1.0, 1.0)).asks_entropy
    assert len(PARTS) == 3


# ------------------------------------------------------------------ what it costs


class _Passes(TorchDispatchMode):
    """Counts operations on at least [n, V], products left out, and products."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.passes, self.products = size, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [value for value in (*args, result) if isinstance(value, Tensor)]
        if any(value.numel() >= self.size for value in tensors):
            is_product = func._schema.name in ("aten::mm", "aten::addmm", "aten::addmm_", "aten::baddbmm")
            self.products += is_product
            self.passes += not is_product
        return result


def cost(**changes: Any) -> tuple[int, int]:
    count, vocab_size = 16, 4_000
    case = make_case(count=count, vocab_size=vocab_size)
    case = replace(case, weights_N=torch.ones(count))
    with _Passes(count * vocab_size) as seen:
        case.loss(chunk_positions=count, weights_N=None, **changes).loss.backward()
    return seen.passes, seen.products


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_no_router_makes_a_product_and_entropy_is_four_looks(temperature: float) -> None:
    plain = cost(temperature=temperature)
    assert plain[1] > 0
    assert cost(temperature=temperature, router=Gap()) == cost(temperature=temperature, router=Trust()) == plain
    assert cost(temperature=temperature, rank_weight=0.5) == plain
    with_entropy = cost(temperature=temperature, router=Waves())
    assert with_entropy == (plain[0] + 4, plain[1])  # bounded powers, their logarithm, its product with them, the sum
