"""The gradient of an arm's whole loss by all of a student's weights, as its own training makes it.

Weights of the parts, routing, ranking and balance are in it, because the Learner computes it; their running means and
magnitudes are those of a step on the same sequences, and nothing is clipped. A learned router's gate has not learned
yet, so it gives every position all parts alike: the angle of `learned` is that of `uniform`.
(Of whole models, as in Anshumann et al. 2025, arXiv:2503.16870.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.distill.batching.batches import HostBatch, RecordSource
from pipeline.distill.keeping.student_weights import load_weights, unique_tensors
from pipeline.distill.learner import Learner
from pipeline.distill.settings import TrainSettings
from pipeline.distill.weighting.loss_weights import LossWeights
from pipeline.models import CausalModel


def whole_gradient(
    causal: CausalModel, settings: TrainSettings, num_steps: int, step: int, source: RecordSource, indices: np.ndarray
) -> Tensor:
    """Float64 [number of weights], of the mean loss over the sequences `indices` at a step's temperature and weights.

    The student has its weights back afterwards.
    """
    before = {name: tensor.clone() for name, tensor in unique_tensors(causal.model).items()}
    settings = settings.model_copy(update={"clip_norm": 0.0, "ema_decay": 0.0})
    learner = Learner(causal, settings, num_steps, torch.float32)
    found: list[Tensor] = []

    def keep(optimizer: Any, arguments: Any, options: Any) -> None:
        parts = [p.grad.double().reshape(-1) for p in causal.model.parameters() if p.grad is not None]
        found.append(torch.cat(parts))

    hook = learner.optimizer.register_step_pre_hook(keep)
    try:
        parts = np.split(indices, range(settings.batch_size, len(indices), settings.batch_size))
        batches = [_batch(source, part, settings.needs_teacher).to(causal.device) for part in parts]
        num_scored = int(source.sequences.scored_counts[indices].sum())
        learner.learn(step, batches, num_scored)  # for the means that a training has of its earlier steps
        load_weights(causal.model, before)
        _size_by_means(learner.loss_weights)
        learner.learn(step, batches, num_scored)
    finally:
        hook.remove()
        load_weights(causal.model, before)
    return found[-1]


def _size_by_means(weights: LossWeights) -> None:
    """The first step's routes had no means to be normalised by: sizes of the parts as if they had had their own."""
    for part in weights.routes.sums:
        if part in weights.magnitudes:
            weights.magnitudes.sums[part] /= weights.routes.get(part)


def _batch(source: RecordSource, indices: np.ndarray, with_records: bool) -> HostBatch:
    if with_records:
        return HostBatch.of(*source.read(indices))
    return HostBatch.of(source.sequences.select(indices), None)
