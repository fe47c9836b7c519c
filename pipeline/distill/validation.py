"""How well the student does on the cache's validation sequences, while it trains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.cache import TeacherCache
from pipeline.distill.batches import load_batch
from pipeline.distill.losses import distillation_loss
from pipeline.models import CausalModel


@dataclass(frozen=True, slots=True)
class Validation:
    """Means over scored positions: cross-entropy and bucket KL at τ = 1 in nats, top-1 agreement as a share."""

    ce: float
    kd: float
    agreement: float


@torch.no_grad()
def validate(
    causal: CausalModel, cache: TeacherCache, indices: np.ndarray, batch_size: int, chunk_positions: int
) -> Validation:
    """Measure the student as it is now on the sequences `indices`."""
    causal.model.eval()
    sums = torch.zeros(4, dtype=torch.float64)
    for start in range(0, len(indices), batch_size):
        batch = load_batch(cache, indices[start : start + batch_size], causal.device, with_records=True)
        hidden_BTD = causal.hidden(batch.input_ids_BT, batch.position_ids_BT)
        parts = distillation_loss(
            hidden_BTD.flatten(0, 1),
            causal.head,
            batch.labels_N,
            batch.records,
            objective="bucket",
            ce_weight=1.0,
            kd_weight=1.0,
            weights_N=batch.weights_N,
            chunk_positions=chunk_positions,
        )
        assert parts.kd_N is not None
        assert parts.agreement_N is not None
        for i, value_N in enumerate((parts.ce_N, parts.kd_N, parts.agreement_N)):
            sums[i] += (value_N.double() * batch.weights_N.double()).sum().cpu()
        sums[3] += batch.num_scored
    ce, kd, agreement = (sums[:3] / sums[3].clamp(min=1)).tolist()
    return Validation(ce, kd, agreement)
