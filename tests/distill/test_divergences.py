"""What reverse_kl and jsd promise beyond their formulae, and what the objectives cost in passes over [n, V]."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.distill.loss.divergences import EMPTY_TAIL_NATS
from pipeline.distill.settings import HEAD_ONLY
from tests.distill import dense
from tests.distill.cases import OBJECTIVES, logits, on_logits

TEMPERATURES = (1.0, 2.0, 3.0)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("head_size", [8, 30])
def test_jsd_is_symmetric(head_size: int, temperature: float) -> None:
    """Student and teacher change places over the same head, where each has it as its own."""
    generator = torch.Generator().manual_seed(1)
    first_NV, second_NV = (torch.randn(20, 30, generator=generator) for _ in range(2))
    for given_NV in (first_NV, second_NV):
        given_NV[:, :8] += 6.0  # both have ids 0..7 for their head
    there = on_logits(first_NV, dense.make_teacher(second_NV, head_size, 2), "jsd", temperature)
    back = on_logits(second_NV, dense.make_teacher(first_NV, head_size, 2), "jsd", temperature)
    assert there.kd_N.min() > 1e-3
    torch.testing.assert_close(there.kd_N, back.kd_N, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spread", [1e-3, 1.0, 30.0, 1e3])
def test_jsd_is_within_0_and_log_2(spread: float) -> None:
    for seed in range(10):
        teacher = dense.make_teacher(logits(8, 30, seed, scale=spread), 6, 2)
        kd_N = on_logits(logits(8, 30, 100 + seed, scale=spread), teacher, "jsd", 1.5).kd_N
        slack = 1e-6 * max(1.0, spread)  # float32 logits of thousands have that in their last digit
        assert kd_N.min() >= -slack
        assert kd_N.max() <= math.log(2) + slack


def test_jsd_of_worlds_apart_is_log_2() -> None:
    teacher_NV, student_NV = torch.zeros(1, 20), torch.zeros(1, 20)
    teacher_NV[0, 3], student_NV[0, 9] = 200.0, 200.0
    kd_N = on_logits(student_NV, dense.make_teacher(teacher_NV, 4, 2), "jsd").kd_N
    assert float(kd_N) == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_reverse_kl_seeks_one_mode_and_bucket_covers_both(temperature: float) -> None:
    """A student on one of a teacher's two modes is close by reverse_kl and far by bucket; one in between, the reverse.

    KL(q ‖ p) of a q within one of two equal modes is log 2, whatever the temperature.
    """
    teacher_NV = torch.full((1, 20), -60.0)
    teacher_NV[0, [2, 5]] = 0.0
    teacher, student_NV = dense.make_teacher(teacher_NV, 4, 2), torch.full((1, 20), -60.0)
    student_NV[0, 2] = 0.0
    reverse, forward = (on_logits(student_NV, teacher, name, temperature) for name in ("reverse_kl", "bucket"))
    assert float(reverse.kd_N) == pytest.approx(math.log(2), rel=1e-4)
    assert float(forward.kd_N) > 5


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_reverse_kl_drives_a_student_out_of_an_empty_tail(temperature: float) -> None:
    """Its formula is infinite there; a tail of −inf counts as e^−100 and the force is finite, and downhill."""
    teacher = dense.make_teacher(logits(3, 20, 11), head_size=4, num_draws=4)
    teacher.records.tail_TR[:] = -np.inf
    student_NV = logits(3, 20, 12).requires_grad_()
    parts = on_logits(student_NV, teacher, "reverse_kl", temperature)
    parts.loss.backward()

    exact_NV = student_NV.detach().double().requires_grad_()
    logq_NV = (exact_NV / temperature).log_softmax(1)
    logp_head_NK = (torch.from_numpy(teacher.records.logprobs_TK).double() / temperature).log_softmax(1)
    ids_NK = torch.from_numpy(teacher.records.ids_TK.astype(np.int64))
    tail_N1 = logq_NV.masked_fill(~teacher.tail_NV, -torch.inf).logsumexp(1, keepdim=True)
    logq_NJ = torch.cat([logq_NV.gather(1, ids_NK), tail_N1], dim=1)
    logp_NJ = torch.cat([logp_head_NK, torch.full_like(tail_N1, EMPTY_TAIL_NATS)], dim=1)
    expected_N = dense.reverse_kl(logp_NJ, logq_NJ)
    (temperature**2 * expected_N).sum().backward()
    torch.testing.assert_close(parts.kd_N.double(), expected_N.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(student_NV.grad.double(), exact_NV.grad, rtol=1e-4, atol=1e-5)
    assert (student_NV.grad[teacher.tail_NV] > 0).all()


@pytest.mark.parametrize("gap", [20.0, 80.0, 120.0])
def test_a_sure_student_keeps_the_digits_of_a_tiny_gradient(gap: float) -> None:
    """q_k·(g_k − Σ q·g) of the id it is sure of is a tiny number between two that are large and equal.

    Float64 loses it as well; but a gradient by logits is zero in sum, so it is what the others' leave.
    """
    teacher_NV, student_NV = logits(4, 30, 13), logits(4, 30, 14)
    teacher_NV[:, 3] -= 3.0
    student_NV[:, 3] = student_NV.amax(1) + gap
    teacher = dense.make_teacher(teacher_NV, 30, 0)
    ours_NV, exact_NV = student_NV.clone().requires_grad_(), student_NV.double().requires_grad_()
    on_logits(ours_NV, teacher, "reverse_kl", 2.0).loss.backward()
    (4.0 * dense.kd(exact_NV, teacher, 2.0, "reverse_kl")).sum().backward()
    exact_N = -torch.cat([exact_NV.grad[:, :3], exact_NV.grad[:, 4:]], dim=1).sum(1)
    assert 0 < exact_N.abs().max() < 5e-3
    torch.testing.assert_close(ours_NV.grad[:, 3].double(), exact_N, rtol=2e-4, atol=1e-35)


class _DensePasses(TorchDispatchMode):
    """Counts operations whose result is as large as the logits."""

    def __init__(self, num_logits: int) -> None:
        super().__init__()
        self.num_logits, self.names = num_logits, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.numel() == self.num_logits and not func.is_view:
            self.names.append(func.overloadpacket.__name__)
        return result


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_no_objective_passes_over_the_logits_more_often_than_bucket(temperature: float) -> None:
    """One exponential where τ = 1, else two; what looks at nothing but the head has one at any temperature."""
    teacher, student_NV, passes = dense.make_teacher(logits(2, 500, 15), 6, 3), logits(2, 500, 16), {}
    for objective in OBJECTIVES:
        with _DensePasses(student_NV.numel()) as seen:
            on_logits(student_NV.clone().requires_grad_(), teacher, objective, temperature)
        passes[objective] = seen.names
        wide = temperature != 1.0 and objective not in HEAD_ONLY
        assert seen.names.count("exp2_") == (2 if wide else 1), objective
    assert passes["bucket"] == passes["reverse_kl"] == passes["jsd"]
    assert passes["subset"] == passes["ranked"]
    assert len(passes["ranked"]) <= len(passes["bucket"])
