"""Whole optimizer steps, beside the dense loss by autograd, clipping and AdamW written out in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.distill.batching.batches import Batch, make_batch
from pipeline.distill.learner import Learner
from pipeline.distill.optimization.precision import autocast
from pipeline.distill.settings import TrainSettings
from pipeline.models import CausalModel
from tests.models.rows import VOCAB_SIZE, lay_out, random_documents
from tests.tiny import make_model

STEPS, SEQUENCES = 5, 4
PEAK, DECAY, BETAS, EPSILON, CLIP_NORM = 0.01, 0.5, (0.7, 0.8), 1e-3, 0.25
RATES = [PEAK / 3, 2 * PEAK / 3, PEAK, PEAK * (0.2 + 0.8 * (1 + math.cos(math.pi / 2)) / 2), PEAK * 0.2]
"""two steps of warm-up, the peak, and half a cosine down to a fifth of it"""


def settings(**changes: object) -> TrainSettings:
    values = {
        "steps": STEPS, "batch_size": SEQUENCES, "ce_weight": 1.0, "kd_weight": 0.0, "ema_decay": 0.0,
        "learning_rate": PEAK, "warmup_steps": 2, "final_learning_rate_ratio": 0.2, "weight_decay": DECAY,
        "adam_betas": BETAS, "adam_epsilon": EPSILON, "clip_norm": CLIP_NORM,
    }  # fmt: skip
    return TrainSettings.model_validate(values | changes)


def batches() -> list[Batch]:
    """One of each step, of labels alone."""
    made = [lay_out([random_documents([15], SEQUENCES * step + row) for row in range(SEQUENCES)], sequence_length=16)
            for step in range(STEPS)]  # fmt: skip
    return [make_batch(sequences, None, torch.device("cpu")) for sequences in made]


def dense_loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Cross-entropy over all logits, a mean over scored positions."""
    logits_BTV = model(input_ids=batch.input_ids_BT).logits[..., :VOCAB_SIZE]
    loss_N = torch.nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1).double(), batch.labels_N.clamp_min(0), reduction="none"
    )
    return (loss_N * batch.weights_N).sum() / batch.weights_N.sum()


def by_hand(model: torch.nn.Module, given: list[Batch]) -> tuple[list[float], list[torch.Tensor]]:
    """Gradient norms before clipping, and the weights after all steps."""
    weights = [p.detach().double().clone() for p in model.parameters()]
    means, squares = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    norms = []
    for step, (batch, rate) in enumerate(zip(given, RATES, strict=True), 1):
        for parameter, weight in zip(model.parameters(), weights, strict=True):
            parameter.data.copy_(weight)
        gradients = [g.double() for g in torch.autograd.grad(dense_loss(model, batch), list(model.parameters()))]
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in gradients)))
        factor = min(1.0, CLIP_NORM / norms[-1])
        for weight, mean, square, gradient in zip(weights, means, squares, gradients, strict=True):
            mean.mul_(BETAS[0]).add_(gradient * factor, alpha=1 - BETAS[0])
            square.mul_(BETAS[1]).add_((gradient * factor).square(), alpha=1 - BETAS[1])
            if weight.dim() >= 2:
                weight.mul_(1 - rate * DECAY)
            corrected = (square / (1 - BETAS[1] ** step)).sqrt().add_(EPSILON)
            weight.sub_(rate * mean / (1 - BETAS[0] ** step) / corrected)
    return norms, weights


def test_steps_are_those_of_adamw_with_warm_up_decay_and_clipping() -> None:
    student, given = CausalModel(make_model(seed=1), VOCAB_SIZE, section="student"), batches()
    learner = Learner(student, settings(), STEPS, torch.float32)
    found = [learner.learn(step, [batch], batch.num_scored).line() for step, batch in enumerate(given)]
    norms, weights = by_hand(make_model(seed=1), given)
    assert min(norms) > CLIP_NORM, "each step is clipped"
    assert [line["gradient_norm"] for line in found] == pytest.approx(norms, rel=1e-4)
    for (name, parameter), expected in zip(student.model.named_parameters(), weights, strict=True):
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-4, atol=2e-6, msg=name)


def test_a_step_in_half_precision_passes_forward_in_it() -> None:
    [batch, *_], losses = batches(), {}
    for dtype in (torch.float32, torch.bfloat16):
        student = CausalModel(make_model(seed=1), VOCAB_SIZE, section="student")
        losses[dtype] = Learner(student, settings(), STEPS, dtype).learn(0, [batch], batch.num_scored).loss
    student = CausalModel(make_model(seed=1), VOCAB_SIZE, section="student")
    with torch.no_grad(), autocast(torch.device("cpu"), torch.bfloat16):
        expected = float(dense_loss(student.model, batch))
    assert losses[torch.bfloat16] != losses[torch.float32]
    assert abs(losses[torch.bfloat16] - expected) < abs(losses[torch.float32] - expected)
    assert np.isclose(losses[torch.float32], losses[torch.bfloat16], rtol=1e-2)
