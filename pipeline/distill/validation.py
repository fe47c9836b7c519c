"""How well the student does on the cache's validation sequences, while it trains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.cache import TeacherCache
from pipeline.distill.batches import Batch, load_batch
from pipeline.distill.losses import LossParts, distillation_loss
from pipeline.distill.precision import autocast
from pipeline.models import CausalModel, Head


@dataclass(frozen=True, slots=True)
class Validation:
    """Means over scored positions: cross-entropy and bucket KL at τ = 1 in nats, top-1 agreement as a share."""

    ce: float
    kd: float
    agreement: float


def score_against_cache(hidden_ND: torch.Tensor, head: Head, batch: Batch, chunk_positions: int) -> LossParts:
    """Cross-entropy, bucket KL at τ = 1 and agreement a position; zero where the label is masked."""
    return distillation_loss(
        hidden_ND,
        head,
        batch.labels_N,
        batch.records,
        objective="bucket",
        ce_weight=1.0,
        kd_weight=1.0,
        weights_N=batch.weights_N,
        chunk_positions=chunk_positions,
    )


def validate(
    causal: CausalModel,
    cache: TeacherCache,
    indices: np.ndarray,
    batch_size: int,
    chunk_positions: int,
    dtype: torch.dtype = torch.float32,
) -> Validation:
    """Measure the student as it is now on the sequences `indices`, its forward passes in `dtype`."""
    batches = (
        load_batch(cache, indices[start : start + batch_size], causal.device, with_records=True)
        for start in range(0, len(indices), batch_size)
    )
    return validate_batches(causal, batches, chunk_positions, dtype)


@torch.no_grad()
def validate_batches(
    causal: CausalModel, batches: Iterable[Batch], chunk_positions: int, dtype: torch.dtype
) -> Validation:
    """Measure the student as it is now on batches with records."""
    causal.model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=causal.device)
    num_scored = 0
    for batch in batches:
        with autocast(causal.device, dtype):
            hidden_BTD = causal.hidden(batch.input_ids_BT, batch.position_ids_BT)
            parts = score_against_cache(hidden_BTD.flatten(0, 1), causal.head, batch, chunk_positions)
        assert parts.kd_N is not None
        assert parts.agreement_N is not None
        scores_3N = torch.stack([parts.ce_N.double(), parts.kd_N.double(), parts.agreement_N.double()])
        sums += (scores_3N * batch.weights_N.double()).sum(dim=1)
        num_scored += batch.num_scored
    ce, kd, agreement = (sums / max(1, num_scored)).tolist()
    return Validation(ce, kd, agreement)
