"""`sampled_tail` on records of the kind `sampled`: the label's probability is known, and draws stand for the rest."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import Records
from pipeline.cache.sampled_codec import unique_with_counts
from pipeline.distill import distillation_loss
from pipeline.distill.loss.record_tensors import RecordTensors
from pipeline.distill.loss.softening import LEAST_LABEL_NATS, SoftTarget
from pipeline.distill.settings import Objective
from pipeline.models.head import Head
from tests.distill.cases import logits

V, NUM_DRAWS = 4, 3
EVERY_DRAW = np.array(list(itertools.product(range(V), repeat=NUM_DRAWS)))
"""all that NUM_DRAWS draws can be, each with a probability of its own [64, 3]"""
LABEL = 2


def teacher(p_label: float) -> np.ndarray:
    """p [V], with so much for the label."""
    rest = np.array([0.5, 0.3, 0.0, 0.2])
    p_V = (1 - p_label) * rest
    p_V[LABEL] = p_label
    return p_V


def every_record(p_V: np.ndarray) -> Records:
    """One record for each of EVERY_DRAW."""
    layout = RecordLayout.for_vocabulary(V, 0, NUM_DRAWS, 1.0, kind="sampled")
    count = len(EVERY_DRAW)
    ids_NK, logprobs_NK = unique_with_counts(np.sort(EVERY_DRAW).astype(np.uint32), layout.head_size)
    return Records(
        layout,
        ids_NK,
        logprobs_NK,
        np.full((count, 1), -np.inf, np.float32),
        np.zeros((count, 0), np.uint32),
        np.zeros((count, 0), np.float32),
        np.full(count, np.log(p_V[LABEL]), np.float32),
        np.full(count, -(p_V * np.log(p_V)).sum(), np.float32),
    )


def gradients(records: Records, objective: Objective) -> Tensor:
    """Of KD by the logits of one student, for every record; float64 [64, V]."""
    student_NV = logits(1, V, 5, scale=2.0).repeat(len(records), 1).requires_grad_()
    labels_N = torch.full((len(records),), LABEL)
    parts = distillation_loss(
        student_NV, Head(None), labels_N, records, objective=objective, ce_weight=0.0, kd_weight=1.0, normaliser=1.0
    )
    parts.loss.backward()
    assert student_NV.grad is not None
    return student_NV.grad.double()


def kd_nats(records: Records) -> Tensor:
    """KD of the same student, for every record; float64 [64]."""
    student_NV, labels_N = logits(1, V, 5, scale=2.0).repeat(len(records), 1), torch.full((len(records),), LABEL)
    parts = distillation_loss(student_NV, Head(None), labels_N, records, ce_weight=0.0, kd_weight=1.0)
    assert parts.kd_N is not None
    return parts.kd_N.double()


def mean_and_noise(p_V: np.ndarray, objective: Objective) -> tuple[Tensor, float]:
    """Expected gradient [V] over everything that can be drawn, exactly, and its total variance."""
    chances_N1 = torch.from_numpy(p_V[EVERY_DRAW].prod(axis=1))[:, None]
    gradients_NV = gradients(every_record(p_V), objective)
    mean_V = (chances_N1 * gradients_NV).sum(0)
    return mean_V, float((chances_N1 * (gradients_NV - mean_V).square()).sum())


@pytest.mark.parametrize("p_label", [1e-3, 0.2, 0.7, 0.97, 0.9995])
def test_its_expected_gradient_is_full_kds(p_label: float) -> None:
    """Over all draws there can be, weighed by their probabilities: no statistics, and so no tolerance for chance."""
    p_V = teacher(p_label)
    full_V = logits(1, V, 5, scale=2.0).double().softmax(1)[0] - torch.from_numpy(p_V)
    mean_V, noise = mean_and_noise(p_V, "sampled_tail")
    torch.testing.assert_close(mean_V, full_V, rtol=1e-5, atol=2e-6)
    assert noise > 1e-9


@pytest.mark.parametrize("p_label", [1e-3, 0.2, 0.7, 0.97, 0.9995])
def test_its_expected_value_is_the_full_kl(p_label: float) -> None:
    """So balance weighs it as it weighs the full KL: by counts alone it would be larger by the noise of the draws."""
    p_V = teacher(p_label)
    chances_N = torch.from_numpy(p_V[EVERY_DRAW].prod(axis=1))
    logq_V, held_V = logits(1, V, 5, scale=2.0).double().log_softmax(1)[0], torch.from_numpy(p_V)
    full = float((held_V * (held_V.log() - logq_V)).sum())
    assert float(chances_N @ kd_nats(every_record(p_V))) == pytest.approx(full, rel=1e-5, abs=2e-6)


@pytest.mark.parametrize(("p_label", "left"), [(0.2, 0.8), (0.7, 0.65), (0.97, 0.65)])
def test_it_has_less_noise_than_counts_alone(p_label: float, left: float) -> None:
    """`bucket` takes the label's share from the draws as well: the same on average, with more noise."""
    p_V = teacher(p_label)
    (mean_V, noise), (mean_of_counts_V, noise_of_counts) = (
        mean_and_noise(p_V, "sampled_tail"),
        mean_and_noise(p_V, "bucket"),
    )
    torch.testing.assert_close(mean_V, mean_of_counts_V, rtol=1e-5, atol=2e-6)
    assert noise < left * noise_of_counts


def test_a_label_that_is_all_there_is_leaves_finite_numbers() -> None:
    """Stored log p of 0, as a sure teacher's is rounded to; with other ids among the draws, and with none."""
    records = every_record(teacher(0.5))
    records.label_logprobs_T[:] = 0.0
    found_NV = gradients(records, "sampled_tail")
    assert found_NV.isfinite().all()
    sure_V = logits(1, V, 5, scale=2.0).double().softmax(1)[0]
    sure_V[LABEL] -= 1.0
    only_label = (EVERY_DRAW == LABEL).all(axis=1).nonzero()[0][0]
    torch.testing.assert_close(found_NV[only_label], sure_V, rtol=0.0, atol=2 * LEAST_LABEL_NATS)
    # What was drawn for all that has the share 1/N in all, the limit of (1 − p)/(1 − p^N).
    row = int(np.flatnonzero((EVERY_DRAW == [0, 1, 3]).all(axis=1))[0])
    beside_V = logits(1, V, 5, scale=2.0).double()[0]
    beside_V[LABEL] = -math.inf
    shares_V = torch.tensor([1 / 3, 1 / 3, 0.0, 1 / 3], dtype=torch.float64)
    expected_V = sure_V + (beside_V.softmax(0) - shares_V) / NUM_DRAWS
    torch.testing.assert_close(found_NV[row], expected_V, rtol=0.0, atol=2 * LEAST_LABEL_NATS)


def test_what_its_target_holds() -> None:
    """The label as the head, its complement as the tail, and shares of the draws beside it."""
    records = every_record(teacher(0.7))
    row = int(np.flatnonzero((EVERY_DRAW == [0, 0, LABEL]).all(axis=1))[0])
    tensors = RecordTensors.from_records(records.rows(slice(row, row + 1)), "cpu")
    target = SoftTarget.of(tensors, torch.tensor([LABEL]), 1.0, "sampled_tail", with_facts=True)
    assert target.ids_NK.tolist() == [[LABEL]]
    assert target.logp_head_NK.item() == pytest.approx(math.log(0.7), rel=1e-6)
    assert target.logp_tail_N.item() == pytest.approx(math.log(0.3), rel=1e-6)
    assert target.top_ids_N.tolist() == [0]
    masses_V = torch.zeros(1, V).scatter_add_(1, target.draw_ids_NM, target.draw_masses_NM)[0]
    assert masses_V.tolist() == pytest.approx([0.3 / (1 - 0.7**NUM_DRAWS), 0.0, 0.0, 0.0], rel=1e-6)
    beside_V = np.array([0.5, 0.3, 0.2])
    mean_logp = (beside_V * np.log(beside_V)).sum()
    assert target.draw_logp_NM[0].tolist() == pytest.approx([mean_logp] * target.draw_ids_NM.shape[1], rel=1e-5)
    assert target.facts_N3[0].tolist() == pytest.approx([float(records.entropies_T[0]), math.log(0.7), 1.0], rel=1e-6)
