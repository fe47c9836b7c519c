"""How well the student does on the cache's validation sequences, while it trains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.cache import TeacherCache
from pipeline.distill.batching.batches import Batch, load_batch
from pipeline.distill.losses import LossParts, distillation_loss
from pipeline.distill.optimization.precision import autocast
from pipeline.models import CausalModel, Head


@dataclass(frozen=True, slots=True)
class Validation:
    """Means over scored positions: cross-entropy and KL to the cache at τ = 1 in nats, top-1 agreement as a share."""

    ce: float
    kd: float
    agreement: float

    def __str__(self) -> str:
        return f"ce {self.ce:.4f}, kd {self.kd:.4f}, agreement {self.agreement:.1%}"


def score_against_cache(hidden_ND: torch.Tensor, head: Head, batch: Batch, chunk_positions: int) -> LossParts:
    """Cross-entropy, KL to the teacher at τ = 1 and agreement a position; zero where the label is masked.

    The KL is the `bucket` value, never above the full one; of `sampled` records, an estimate of the full one, unbiased
    but for the rounding of what it takes from the record (entropies by at most 1/8 nat a position; one that is near 0
    is stored as 0, which makes the KL too large by it).
    """
    sampled = batch.records is not None and batch.records.layout.kind == "sampled"
    return distillation_loss(
        hidden_ND,
        head,
        batch.labels_N,
        batch.records,
        objective="sampled_tail" if sampled else "bucket",
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
