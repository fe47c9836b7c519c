"""`sampled_tail` over many sets of draws: its mean, and its mean gradient, are the full KL's at every stored beta.

Records are what the library's own scoring and drawing make of float32 logits; the truth is float64 over all ids.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.cache.records import RecordLayout, Records
from pipeline.cache.settings import BETAS
from pipeline.distill.loss.record_tensors import RecordTensors
from pipeline.distill.losses import distillation_loss
from pipeline.models.draws import uniforms
from pipeline.models.head import Head
from pipeline.models.scoring import score
from tests.distill import dense
from tests.distill.cases import logits

NUM_SETS, V, K, M = 40_000, 48, 4, 4
STANDARD_ERRORS = 5.0
"""that a mean may be off: one of 49 numbers is once in 35,000 tests, and the draws have a fixed seed"""


def teacher_logits() -> Tensor:
    """A few likely ids, and a tail that keeps a fifth to most of the mass, from τ = 1 to 4."""
    return logits(1, V, 21, scale=1.6)


@functools.cache
def scored(draw_beta: float) -> RecordTensors:
    """One teacher row NUM_SETS times over, each with draws of its own."""
    layout = RecordLayout.for_vocabulary(V, K, M, draw_beta)
    uniforms_NM = torch.from_numpy(uniforms(3, 0, NUM_SETS, M))
    labels_N = torch.zeros(NUM_SETS, dtype=torch.int64)
    scores = score(teacher_logits().repeat(NUM_SETS, 1), labels_N, uniforms_NM, layout)
    found = [getattr(scores, name).numpy() for name in scores.__slots__]
    arrays: list[Any] = [array.astype(np.uint32) if array.dtype == np.int64 else array for array in found]
    return RecordTensors.from_records(Records(layout, *arrays), "cpu")


def estimates(draw_beta: float, temperature: float) -> tuple[Tensor, Tensor]:
    """KD [n] and its gradient by the logits [n, V], without τ², of every set of draws; float64."""
    student_NV = logits(1, V, 22, scale=1.6).repeat(NUM_SETS, 1).requires_grad_()
    labels_N = torch.zeros(NUM_SETS, dtype=torch.int64)
    parts = distillation_loss(
        student_NV, Head(None), labels_N, scored(draw_beta), temperature, ce_weight=0.0, kd_weight=1.0, normaliser=1.0
    )
    parts.loss.backward()
    assert parts.kd_N is not None
    assert student_NV.grad is not None
    return parts.kd_N.double(), student_NV.grad.double() / temperature**2


def truth(temperature: float) -> tuple[Tensor, Tensor]:
    """The full KL and its gradient by the logits."""
    student_1V = logits(1, V, 22, scale=1.6).double().requires_grad_()
    kl = dense.full_kl(student_1V, teacher_logits().double().log_softmax(1), temperature).sum()
    [gradient_1V] = torch.autograd.grad(kl, student_1V)
    return kl.detach(), gradient_1V[0]


@pytest.mark.parametrize("draw_beta", [0.7, 1.0])
@pytest.mark.parametrize("beta", BETAS)
def test_the_mean_is_the_full_kl(beta: float, draw_beta: float) -> None:
    """Value and every coordinate of the gradient, within five standard errors."""
    (kd_N, gradient_NV), (kl, gradient_V) = estimates(draw_beta, 1 / beta), truth(1 / beta)
    rounding = 1e-6  # of float32, for coordinates that no draw moves
    for samples_NX, expected_X in ((kd_N[:, None], kl[None]), (gradient_NV, gradient_V)):
        allowed_X = STANDARD_ERRORS * samples_NX.std(0) / NUM_SETS**0.5 + rounding
        assert ((samples_NX.mean(0) - expected_X).abs() <= allowed_X).all()
    assert kd_N.std() > 1e-3  # the draws do have a say


@pytest.mark.parametrize("draw_beta", [0.7, 1.0])
@pytest.mark.parametrize("beta", BETAS)
def test_the_error_falls_with_the_root_of_the_number_of_sets(beta: float, draw_beta: float) -> None:
    """From the error of means of 100 sets to that of 1,600, a quarter, within a third of it; a bias would not fall."""
    (_, gradient_NV), (_, gradient_V) = estimates(draw_beta, 1 / beta), truth(1 / beta)

    def error(size: int) -> float:
        means_GV = gradient_NV.reshape(-1, size, V).mean(1)
        return float((means_GV - gradient_V).norm(dim=1).square().mean().sqrt())

    assert error(1600) == pytest.approx(error(100) / 4, rel=1 / 3)


def test_bucket_alone_is_another_number() -> None:
    """What the draws add is far outside the five standard errors: the test above could tell."""
    student_NV = logits(1, V, 22, scale=1.6)
    one = scored(0.7).rows(torch.tensor([0]))
    parts = distillation_loss(
        student_NV, Head(None), torch.zeros(1, dtype=torch.int64), one, 2.0, "bucket", 0.0, 1.0, normaliser=1.0
    )
    kd_N, _ = estimates(0.7, 2.0)
    assert parts.kd_N is not None
    assert truth(2.0)[0] - parts.kd_N[0] > 100 * kd_N.std() / NUM_SETS**0.5
