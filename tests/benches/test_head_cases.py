"""The sides that are compared compute the same thing: else a ratio of their times would mean nothing."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pipeline.benches.head_cases import (
    HeadCase,
    HeadSizes,
    has_linear_ce,
    kd_side,
    linear_ce,
    linear_ce_auto,
    memory_of_kd,
    memory_of_ours,
    memory_of_whole,
    ours,
    ours_by_default,
    plain_ce,
    whole_sampled_tail,
)
from pipeline.distill.settings import TrainSettings

SIZES = HeadSizes(positions=24, width=8, vocab_size=400, head_size=16, num_draws=4)
CPU = torch.device("cpu")


def gradients(case: HeadCase, loss: object) -> tuple[float, torch.Tensor, torch.Tensor]:
    value = case.side(loss)()  # type: ignore[arg-type]
    assert case.hidden_ND.grad is not None
    assert case.weight_VD.grad is not None
    return value, case.hidden_ND.grad, case.weight_VD.grad


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_whole_logits_and_ours_are_one_loss(temperature: float) -> None:
    case = HeadCase.random(SIZES, CPU)
    whole = gradients(case, whole_sampled_tail(temperature))
    mine = gradients(case, ours("sampled_tail", temperature))
    for one, other in zip(whole, mine, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_training_s_default_shares_out_to_positions_and_is_the_same_in_one_chunk() -> None:
    settings, case = TrainSettings(steps=1), HeadCase.random(SIZES, CPU)
    assert (settings.objective, settings.router_kind) == ("sampled_tail", "learned")
    fresh_gate = gradients(case, ours_by_default(CPU))  # which gives all positions alike
    expected = gradients(case, ours("sampled_tail", settings.temperature.start, chunk_positions=24))
    for one, other in zip(fresh_gate, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not has_linear_ce(), reason="this torch has no linear_cross_entropy")
def test_torch_s_own_and_plain_cross_entropy_are_one_loss() -> None:
    case = HeadCase.random(SIZES, CPU)
    for theirs in (linear_ce, linear_ce_auto):
        for one, other in zip(gradients(case, plain_ce), gradients(case, theirs), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_records_are_those_of_the_random_logits() -> None:
    records = HeadCase.random(SIZES, CPU).records
    head_N = records.logprobs_NK.exp().sum(dim=1)
    torch.testing.assert_close(head_N + records.tail_NR[:, -1].exp(), torch.ones(24), rtol=1e-4, atol=1e-5)
    assert (records.ids_NK[:, 1:] > records.ids_NK[:, :-1]).all()
    assert HeadCase.random(SIZES, CPU).records.ids_NK.equal(records.ids_NK)


def test_the_first_positions_are_a_case_of_their_own() -> None:
    case = HeadCase.random(SIZES, CPU)
    part = case.first(3)
    part.side(plain_ce)()
    assert part.hidden_ND.shape == (3, 8)
    assert len(part.records) == 3
    assert case.hidden_ND.grad is None
    half = case.cast(torch.bfloat16)
    assert half.hidden_ND.dtype == half.weight_VD.dtype == torch.bfloat16
    assert half.side(ours("sampled_tail", 2.0))() == pytest.approx(case.side(ours("sampled_tail", 2.0))(), rel=0.05)


def test_distillation_on_given_logits_is_the_kl() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 30, generator=generator).double() for _ in range(2))
    q, p = (functional.softmax(logits / 2.0, dim=1) for logits in (student, teacher))
    expected = float((p * (p.log() - q.log())).sum() / 5 * 4.0)
    assert kd_side(5, 30, CPU)() == pytest.approx(expected, rel=1e-5)


def test_work_that_is_measured_for_memory_runs() -> None:
    sizes = {"positions": 4, "width": 8, "vocab_size": 300, "head_size": 16}
    for work in (memory_of_ours(sizes, "cpu"), memory_of_whole(sizes, "cpu"), memory_of_kd(4, 16, "cpu")):
        assert work() > 0
