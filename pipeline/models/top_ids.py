"""The ids with the largest logits, the lowest id first among equals.

Shapes: **n** positions, **V** effective vocabulary, **K** ids wanted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.models.folding import Folding

_TIED_IDS = 2**22  # ids of rows with a tie looked at together: about 16 MiB each of logits and of ranks
_FOLD_FROM = 4  # folding pays once the columns hold a few ids each


def top_ids(logits_nV: Tensor, head_size: int) -> tuple[Tensor, Tensor]:
    """The `head_size` < V largest ids, ascending, [n, K]; and the largest logit outside them, [n, 1].

    Among equal logits the lowest id comes first. `torch.topk` does not promise that, so rows with a tie at the
    boundary (the K-th and the next logit are equal) are done again.
    """
    values_nJ, ids_nJ = _largest(logits_nV, head_size + 1)
    ids_nK = ids_nJ[:, :head_size].sort(dim=1).values
    boundary_n = values_nJ[:, head_size - 1]
    tied_x = (boundary_n == values_nJ[:, head_size]).nonzero().flatten()
    for rows_x in torch.split(tied_x, max(1, _TIED_IDS // logits_nV.shape[1])) if len(tied_x) else ():
        ids_nK[rows_x] = _lowest_ids(logits_nV[rows_x], boundary_n[rows_x].unsqueeze(1), head_size)
    return ids_nK, values_nJ[:, head_size:]


def _lowest_ids(logits_xV: Tensor, boundary_x1: Tensor, head_size: int) -> Tensor:
    """Ids above each row's boundary and, of those equal to it, the lowest, so that there are K; ascending, [x, K]."""
    above_xV, equal_xV = logits_xV > boundary_x1, logits_xV == boundary_x1
    missing_x1 = head_size - above_xV.sum(dim=1, keepdim=True)
    kept_xV = above_xV.logical_or_(equal_xV.logical_and(equal_xV.cumsum(dim=1, dtype=torch.int32) <= missing_x1))
    return kept_xV.nonzero()[:, 1].view(-1, head_size)


def _largest(logits_nV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest values, descending, and their ids.

    They lie in the `count` columns with the largest maxima, so only those are searched: at V = 49,152 and 257 ids a
    third of the time of one search over everything.
    """
    folding = Folding.for_search(logits_nV.shape[1], count)
    if folding.num_full_rows < _FOLD_FROM:
        values_nJ, ids_nJ = logits_nV.topk(count, dim=1)
        return values_nJ, ids_nJ
    columns_nJ = folding.largest(logits_nV).topk(count, dim=1, sorted=False).indices
    ids_nJG, exists_nJG = folding.ids_in(columns_nJ)
    candidates_nX = logits_nV.gather(1, ids_nJG.flatten(1)).masked_fill_(~exists_nJG.flatten(1), -math.inf)
    values_nJ, places_nJ = candidates_nX.topk(count, dim=1)
    return values_nJ, ids_nJG.flatten(1).gather(1, places_nJ)
