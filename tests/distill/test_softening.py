"""The teacher's side at other temperatures, against numpy's soften and the whole distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.distill.loss.record_tensors import RecordTensors
from pipeline.distill.loss.softening import SoftTarget, soften
from pipeline.distill.settings import Objective
from tests.distill import dense

TEMPERATURES = (1.0, 1.1, 1.5, 2.0, 2.7, 3.0, 4.0)


def make_teacher(head_size: int = 6, num_draws: int = 8, count: int = 7) -> dense.Teacher:
    logits_NV = 3 * torch.randn(count, 40, generator=torch.Generator().manual_seed(3))
    return dense.make_teacher(logits_NV, head_size, num_draws)


def tensors(teacher: dense.Teacher) -> RecordTensors:
    return RecordTensors.from_records(teacher.records, "cpu")


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("head_size", [1, 6, 39, 40])
def test_is_what_numpy_says_and_what_is_true(head_size: int, temperature: float) -> None:
    teacher = make_teacher(head_size)
    head_NK, tail_N = soften(tensors(teacher), temperature)
    numpy_head_NK, numpy_tail_N = teacher.records.soften(temperature)
    np.testing.assert_allclose(head_NK.numpy(), numpy_head_NK, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(tail_N.numpy(), numpy_tail_N, rtol=2e-6, atol=2e-6)

    logp_NV = (teacher.logp_NV / temperature).log_softmax(1)
    ids_NK = torch.from_numpy(teacher.records.ids_TK.astype(np.int64))
    torch.testing.assert_close(head_NK.double(), logp_NV.gather(1, ids_NK), rtol=0, atol=3e-3)
    true_tail_N = logp_NV.masked_fill(~teacher.tail_NV, -torch.inf).logsumexp(1)
    torch.testing.assert_close(tail_N.double(), true_tail_N, rtol=0, atol=3e-3)


@pytest.mark.parametrize("temperature", [0.99, 4.01, 0.0, -1.0, float("nan"), float("inf")])
def test_refuses_temperatures_beyond_the_stored_ones(temperature: float) -> None:
    with pytest.raises(ValueError, match=r"temperature must be in \[1, 4\]"):
        soften(tensors(make_teacher()), temperature)


def target_of(records: RecordTensors, temperature: float, objective: Objective) -> SoftTarget:
    """At labels that make no difference: the kind is `topk`."""
    return SoftTarget.of(records, torch.zeros(len(records), dtype=torch.int64), temperature, objective)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
def test_draws_stand_for_the_mass_of_the_tail(temperature: float) -> None:
    """Σ_j m_j is p_τ(tail) on average, and exactly so where the draws were made at this temperature."""
    logits_NV = 2 * torch.randn(1, 30, generator=torch.Generator().manual_seed(4)).expand(20_000, -1)
    teacher = dense.make_teacher(logits_NV, head_size=5, num_draws=4)
    target = target_of(tensors(teacher), temperature, "sampled_tail")
    masses_N, p_tail = target.draw_masses_NM.sum(1).double(), target.logp_tail_N[0].double().exp()
    assert abs(masses_N.mean() - p_tail) < 5 * masses_N.std() / len(masses_N) ** 0.5
    assert (target.effective_draws() > 1 - 1e-5).all()
    assert (target.effective_draws() < 4 + 1e-5).all()


def test_draws_made_at_the_temperature_weigh_the_same() -> None:
    teacher = make_teacher()
    target = target_of(tensors(teacher), 1 / dense.DRAW_BETA, "sampled_tail")
    p_tail_N = target.logp_tail_N.exp()
    torch.testing.assert_close(target.draw_masses_NM, (p_tail_N / 8)[:, None].expand(-1, 8), rtol=1e-5, atol=0)
    torch.testing.assert_close(target.effective_draws(), torch.full((7,), 8.0))


def test_what_each_objective_asks_for() -> None:
    records = tensors(make_teacher())
    bucket, subset = (target_of(records, 2.0, "bucket"), target_of(records, 2.0, "subset"))
    assert bucket.draw_ids_NM.shape == subset.draw_ids_NM.shape == (7, 0)
    everything_N = bucket.logp_head_NK.exp().sum(1) + bucket.logp_tail_N.exp()
    torch.testing.assert_close(everything_N, torch.ones(7))
    torch.testing.assert_close(subset.logp_head_NK.exp().sum(1), torch.ones(7))
    assert subset.logp_tail_N.isneginf().all()


def test_a_whole_vocabulary_needs_no_draws_and_a_tail_does() -> None:
    whole = target_of(tensors(make_teacher(head_size=40)), 2.0, "sampled_tail")
    assert whole.logp_tail_N.isneginf().all()
    assert (whole.effective_draws() == 0).all()
    with pytest.raises(ValueError, match="found none for the 40 − 6 ids outside the head; use the objective bucket"):
        target_of(tensors(make_teacher(num_draws=0)), 2.0, "sampled_tail")


def test_the_likeliest_id_is_the_lowest_of_equals() -> None:
    teacher = dense.make_teacher(torch.tensor([[0.0, 2.0, 1.0, 2.0, 0.5]]), head_size=3, num_draws=1)
    assert target_of(tensors(teacher), 1.0, "bucket").top_ids_N.tolist() == [1]
