"""Drawing ids from the tail: random numbers that depend on nothing but where they are used, and inverse CDFs.

Shapes: **n** positions, **V** effective vocabulary, **M** draws, **C** columns of a Folding, **G** ids in one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.models.folding import Folding

_UINT53 = 2.0**-53


def uniforms(seed: int, sequence: int, num_positions: int, num_draws: int) -> np.ndarray:
    """Float64 [T, M] in [0, 1) for one sequence: a counter-based stream keyed by (seed, sequence), cut by position.

    Philox-4x64 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): no state is carried from one
    sequence to the next, so batches and workers cannot change a draw.
    """
    key = np.array([seed, sequence], dtype=np.uint64)
    raw = np.random.Philox(key=key).random_raw(num_positions * num_draws)
    return ((raw >> np.uint64(11)) * _UINT53).reshape(num_positions, num_draws)


def draw_ids(weights_nV: Tensor, uniforms_nM: Tensor) -> Tensor:
    """Ids drawn with replacement ∝ `weights_nV`, ascending, int64 [n, M]; an id of weight zero is never drawn.

    Inverse CDF in two levels: first the column, then the id within it. Sums over columns run in float64: a float32
    CDF over 10^5 ids cannot tell rare ones apart. Every row needs a positive weight.
    """
    folding = Folding.for_search(weights_nV.shape[1], uniforms_nM.shape[1])
    columns_nC = running_sums(folding.sums(weights_nV).double())
    target_nM = uniforms_nM * columns_nC[:, -1:]
    column_nM = _first_above(columns_nC, target_nM)
    before_nM = torch.where(column_nM > 0, columns_nC.gather(1, (column_nM - 1).clamp_(min=0)), 0.0)

    ids_nMG, exists_nMG = folding.ids_in(column_nM)
    within_nMG = weights_nV.gather(1, ids_nMG.flatten(1)).view(ids_nMG.shape)
    within_nMG = running_sums(within_nMG.masked_fill_(~exists_nMG, 0.0).double())
    row_nM1 = _first_above(within_nMG, (target_nM - before_nM).unsqueeze(-1))
    return ids_nMG.gather(2, row_nM1).squeeze(-1).sort(dim=1).values


def running_sums(values: Tensor) -> Tensor:
    """Sums along the last dimension up to each entry, in place where it can be; the same bits every time.

    On a card a tensor of one row goes to a scan whose order of additions depends on timing; rows beside each other are
    each added in a fixed order. So one row is never handed over alone.
    """
    if values.numel() > values.shape[-1]:
        return values.cumsum_(dim=-1)
    return torch.stack((values, values)).cumsum_(dim=-1)[0]


def _first_above(cdf: Tensor, target: Tensor) -> Tensor:
    """Index of the first entry of each CDF that is above its target; so the entry's own weight is positive.

    A target at or above the last entry (by rounding between the two levels) is taken to be just below it.
    """
    below_last = torch.nextafter(cdf[..., -1:], torch.zeros_like(cdf[..., -1:]))
    return torch.searchsorted(cdf, torch.minimum(target, below_last).contiguous(), right=True)
