"""The terms and their gradients against float64 autograd of the dense formulae."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.distill.loss.objectives import Goal, score_
from pipeline.distill.loss.record_tensors import RecordTensors
from pipeline.distill.loss.softening import SoftTarget
from tests.distill import dense
from tests.distill.cases import OBJECTIVES, logits, on_logits

STORED_TEMPERATURES = (1.0, 2.0, 3.0)  # where the tail mass is stored, not interpolated


@pytest.mark.parametrize("temperature", STORED_TEMPERATURES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradcheck_in_float64(objective: Any, temperature: float) -> None:
    teacher = dense.make_teacher(logits(3, 7, 0), head_size=3, num_draws=2)
    labels_N, weights_N = torch.tensor([0, 3, 6]), torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    records = _doubled(RecordTensors.from_records(teacher.records, "cpu"))
    target = SoftTarget.of(records, labels_N, temperature, objective)
    goal = Goal(objective, temperature, 0.3, 0.7)

    class Score(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, logits_NV: Tensor) -> Tensor:
            buffer_NV = logits_NV.clone()
            scores = score_(buffer_NV, labels_N, weights_N, target, goal, with_gradient=True)
            ctx.save_for_backward(buffer_NV)
            return 0.3 * weights_N @ scores.ce_n + 0.7 * temperature**2 * weights_N @ scores.kd_n

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * ctx.saved_tensors[0]

    assert torch.autograd.gradcheck(Score.apply, logits(3, 7, 1).double().requires_grad_())


def _doubled(records: RecordTensors) -> RecordTensors:
    names = ("logprobs_NK", "tail_NR", "draw_logprobs_NM")
    return replace(records, **{name: getattr(records, name).double() for name in names})


@pytest.mark.parametrize("temperature", STORED_TEMPERATURES)
@pytest.mark.parametrize("gap", [0.0, 5.0, 10.0, 20.0, 40.0, 80.0, 200.0])
@pytest.mark.parametrize("sure_of", ["head", "tail"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_confident_students(objective: Any, sure_of: str, gap: float, temperature: float) -> None:
    """However sure the student is, every entry of its gradient is right to float32, the tail's tiny ones included."""
    teacher = dense.make_teacher(logits(6, 40, 2, scale=1.0), head_size=5, num_draws=4)
    rows = torch.arange(6)
    favourite_N = torch.where(torch.tensor(sure_of == "head"), ~teacher.tail_NV, teacher.tail_NV).int().argmax(1)
    student_NV = logits(6, 40, 3, scale=1.0)
    student_NV[rows, favourite_N] = student_NV.amax(1) + gap
    ours_NV = student_NV.clone().requires_grad_()
    parts = on_logits(ours_NV, teacher, objective, temperature)
    parts.loss.backward()

    exact_NV = student_NV.double().requires_grad_()
    kd_N = dense.kd(exact_NV, teacher, temperature, objective)
    (temperature**2 * kd_N).sum().backward()
    torch.testing.assert_close(parts.kd_N.double(), kd_N.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours_NV.grad.double(), exact_NV.grad, rtol=2e-4, atol=2e-6)


def test_the_tail_is_never_what_the_head_leaves() -> None:
    """1 − Σ head, in float32, gives some of these students gradients of several units where the truth is 2e-4."""
    levels_N1 = torch.linspace(-6.0, 0.0, 25)[:, None]
    student_NV = torch.cat([torch.tensor([[18.0, -12.0, -12.0]]).expand(25, -1), levels_N1.expand(-1, 60)], dim=1)
    teacher = dense.make_teacher(torch.tensor([[18.0, 14.0, 13.0] + [9.0] * 60]).expand(25, -1), 3, num_draws=0)
    ours_NV, exact_NV = student_NV.clone().requires_grad_(), student_NV.double().requires_grad_()
    on_logits(ours_NV, teacher, "bucket").loss.backward()
    dense.kd(exact_NV, teacher, 1.0, "bucket").sum().backward()
    assert exact_NV.grad[:, 3:].abs().max() < 2e-4
    torch.testing.assert_close(ours_NV.grad[:, 3:].double(), exact_NV.grad[:, 3:], rtol=1e-4, atol=0)

    q_NV, p_tail_N1 = student_NV.softmax(1), teacher.logp_NV[:, 3:].exp().sum(1, keepdim=True).float()
    left_over_N1 = (1 - q_NV[:, :3].sum(1, keepdim=True)).clamp_min(1e-12)
    assert (q_NV[:, 3:] * (1 - p_tail_N1 / left_over_N1)).abs().max() > 1


@pytest.mark.parametrize("temperature", STORED_TEMPERATURES)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("head_size", [12, 50])
def test_is_over_all_ids_where_the_head_is_everything(head_size: int, objective: Any, temperature: float) -> None:
    teacher = dense.make_teacher(logits(5, 12, 4), head_size, num_draws=4)
    student_NV = logits(5, 12, 5).requires_grad_()
    parts = on_logits(student_NV, teacher, objective, temperature)
    parts.loss.backward()
    exact_NV = student_NV.detach().double().requires_grad_()
    full_N = dense.full(exact_NV, teacher.logp_NV, temperature, objective)
    (temperature**2 * full_N).sum().backward()
    torch.testing.assert_close(parts.kd_N.double(), full_N.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(student_NV.grad.double(), exact_NV.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", ["bucket", "reverse_kl", "jsd"])
@pytest.mark.parametrize("temperature", STORED_TEMPERATURES)
def test_a_tail_in_one_is_never_further_than_all_ids(temperature: float, objective: Any) -> None:
    for seed in range(20):
        teacher = dense.make_teacher(logits(8, 30, seed), head_size=1 + seed, num_draws=1)
        student_NV = logits(8, 30, 100 + seed)
        full_N = dense.full(student_NV.double(), teacher.logp_NV, temperature, objective)
        assert (on_logits(student_NV, teacher, objective, temperature).kd_N <= full_N + 1e-5).all()


@pytest.mark.parametrize("temperature", STORED_TEMPERATURES)
@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "ranked"])
def test_is_zero_where_student_and_teacher_agree(objective: Any, temperature: float) -> None:
    """For sampled_tail the value is; its gradient is so in expectation only. (For ranked, see test_ranking.py.)"""
    same_NV = logits(5, 30, 6).requires_grad_()
    parts = on_logits(same_NV, dense.make_teacher(same_NV.detach(), 6, 4), objective, temperature)
    parts.loss.backward()
    assert parts.kd_N.abs().max() < 5e-6
    assert parts.agreement_N.all()
    if objective != "sampled_tail":
        assert same_NV.grad.abs().max() < 5e-6


@pytest.mark.parametrize("temperature", STORED_TEMPERATURES)
def test_sampled_tail_is_the_full_kl_on_average(temperature: float) -> None:
    """Value and gradient over 20,000 sets of draws, within five standard errors of the full KL's."""
    count, vocab_size = 20_000, 24
    teacher = dense.make_teacher(logits(1, vocab_size, 7, scale=1.5).expand(count, -1), head_size=4, num_draws=4)
    student_NV = logits(1, vocab_size, 8, scale=1.5).expand(count, -1).clone().requires_grad_()
    parts = on_logits(student_NV, teacher, "sampled_tail", temperature)
    parts.loss.backward()

    exact_NV = student_NV[:1].detach().double().requires_grad_()
    kl = temperature**2 * dense.full_kl(exact_NV, teacher.logp_NV[:1], temperature)
    kl.sum().backward()
    _assert_mean(temperature**2 * parts.kd_N[:, None].double(), kl.detach())
    _assert_mean(student_NV.grad.double(), exact_NV.grad[0])
    assert parts.effective_draws_N.min() >= 1 - 1e-5
    assert parts.effective_draws_N.max() <= 4 + 1e-5


def _assert_mean(samples_NX: Tensor, expected_X: Tensor) -> None:
    error_X = samples_NX.std(0) / len(samples_NX) ** 0.5
    assert ((samples_NX.mean(0) - expected_X).abs() <= 5 * error_X + 1e-6).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_finite_at_extremes(objective: Any) -> None:
    """Masked vocabularies (−1e4), near-certain teachers and large logits leave numbers, not NaN."""
    teacher_NV = logits(4, 30, 9)
    teacher_NV[0, 10:] = -1e4
    teacher_NV[1, 3] = 1e3
    teacher_NV[2] = 0.0
    student_NV = logits(4, 30, 10)
    student_NV[0, :10] = -1e4
    student_NV[3] *= 1e3
    student_NV.requires_grad_()
    teacher = dense.make_teacher(teacher_NV, head_size=5, num_draws=4)
    for temperature in (1.0, 1.7, 4.0):
        parts = on_logits(student_NV, teacher, objective, temperature)
        parts.loss.backward()
        assert parts.kd_N.isfinite().all()
        assert student_NV.grad.isfinite().all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_tail_the_cache_calls_empty_has_no_say(objective: Any) -> None:
    """A teacher so sure that its tail mass is stored as −inf: the head's terms stay, no draw counts."""
    teacher = dense.make_teacher(logits(3, 20, 11), head_size=4, num_draws=4)
    teacher.records.tail_TR[:] = float("-inf")
    student_NV = logits(3, 20, 12).requires_grad_()
    parts = on_logits(student_NV, teacher, objective, 2.0)
    parts.loss.backward()
    assert parts.kd_N.isfinite().all()
    assert student_NV.grad.isfinite().all()
    if objective == "sampled_tail":
        assert (parts.effective_draws_N == 0).all()
    if objective in ("bucket", "sampled_tail", "subset"):
        ids_NK = torch.as_tensor(teacher.records.ids_TK.astype("int64"))
        logp_NK = (torch.as_tensor(teacher.records.logprobs_TK).double() / 2.0).log_softmax(1)
        scaled_NV = student_NV.detach().double() / 2.0
        head_NK = scaled_NV.gather(1, ids_NK)
        logq_NK = head_NK - (head_NK if objective == "subset" else scaled_NV).logsumexp(1, keepdim=True)
        expected_N = (logp_NK.exp() * (logp_NK - logq_NK)).sum(1)
        torch.testing.assert_close(parts.kd_N.double(), expected_N, rtol=1e-5, atol=1e-6)


def test_agreement_is_with_the_teachers_likeliest_id() -> None:
    teacher = dense.make_teacher(torch.tensor([[0.0, 5.0, 1.0, 2.0]] * 4), head_size=2, num_draws=1)
    student_NV = torch.tensor([[0.0, 3.0, 1.0, 2.0], [9.0, 3.0, 1.0, 2.0], [0.0, 3.0, 1.0, 4.0], [3.0, 3.0, 3.0, 3.1]])
    assert on_logits(student_NV, teacher, "bucket").agreement_N.tolist() == [True, False, False, False]
