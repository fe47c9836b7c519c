"""From the teacher's logits to what a record keeps of them, one chunk of positions at a time.

    log p(v) = z_v − log Σ_V exp z          A(β) = log Σ_{v in tail} p(v)^β          H = −Σ_V p log p

The tail is everything outside the K largest logits. Its sums are stabilised by its own largest logit, never taken as
1 − Σ head: for a confident teacher that difference has no correct digit. The chunk's logits are used up in place;
passes over [n, V] are what this costs, so each is counted.

Shapes: **n** positions, **V** effective vocabulary, **K** head size, **M** draws, **R** betas. Everything in nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.cache.records import RecordLayout
from pipeline.models.draws import draw_ids
from pipeline.models.folding import Folding

_LOG2_E = math.log2(math.e)  # exp2 is a third of the time of exp on CPU
_NOT_TAIL = -1e30  # instead of −inf: its exponential is 0 as well, and 0 · −1e30 is no NaN
_CPU_BLOCK_BYTES = 2 * 2**20  # logits worked on at once on CPU: what stays in a core's cache
_TIED_IDS = 2**22  # ids of rows with a tie looked at together: about 16 MiB each of logits and of ranks
_FOLD_FROM = 4  # folding pays once the columns hold a few ids each


@dataclass(frozen=True, slots=True)
class Scores:
    """The fields of `Records`, as tensors on the teacher's device; ids are int64, the rest float32."""

    ids_nK: Tensor
    logprobs_nK: Tensor
    tail_nR: Tensor
    draw_ids_nM: Tensor
    draw_logprobs_nM: Tensor
    label_logprobs_n: Tensor
    entropies_n: Tensor


def score(logits_nV: Tensor, labels_n: Tensor, uniforms_nM: Tensor, layout: RecordLayout) -> Scores:
    """Score finite float32 logits, which are destroyed; `labels_n` int64, `uniforms_nM` float64 in [0, 1)."""
    block = logits_nV.shape[0]
    if logits_nV.device.type == "cpu":
        block = min(block, max(1, _CPU_BLOCK_BYTES // (4 * logits_nV.shape[1])))
    work_nV = torch.empty_like(logits_nV[:block])
    parts = [
        _score_block(logits, labels, uniforms, layout, work_nV[: len(logits)])
        for logits, labels, uniforms in zip(
            torch.split(logits_nV, block), torch.split(labels_n, block), torch.split(uniforms_nM, block), strict=True
        )
    ]
    return _concatenate(parts) if len(parts) > 1 else parts[0]


def finite_rows(logits_nV: Tensor) -> Tensor:
    """Bool [n]: rows without NaN or infinity. A sum carries either to the end of its row."""
    return logits_nV.sum(dim=1).isfinite()


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


def _score_block(
    logits_nV: Tensor, labels_n: Tensor, uniforms_nM: Tensor, layout: RecordLayout, work_nV: Tensor
) -> Scores:
    if layout.head_size >= logits_nV.shape[1]:
        return _score_whole(logits_nV, labels_n, layout)
    ids_nK, tail_max_n1 = top_ids(logits_nV, layout.head_size)
    # From here on everything is relative to the tail's largest logit.
    head_nK = logits_nV.gather(1, ids_nK).double() - tail_max_n1
    label_n1 = logits_nV.gather(1, labels_n.unsqueeze(1)).double() - tail_max_n1
    tail_nV = logits_nV.sub_(tail_max_n1).scatter_(1, ids_nK, _NOT_TAIL)

    log_sums, draws_nM, tail_energy_n1 = _tail_sums(tail_nV, uniforms_nM, layout, work_nV)
    log_z_n1 = torch.logaddexp(head_nK.logsumexp(dim=1, keepdim=True), log_sums[1.0])
    tail_nR = torch.cat([log_sums[beta] - beta * log_z_n1 for beta in layout.betas], dim=1)
    head_logp_nK = head_nK - log_z_n1
    energy_n1 = (head_logp_nK.exp() * head_nK).sum(dim=1, keepdim=True) + tail_energy_n1 * torch.exp(-log_z_n1)
    return Scores(
        ids_nK=ids_nK,
        logprobs_nK=head_logp_nK.float(),
        tail_nR=tail_nR.float(),
        draw_ids_nM=draws_nM,
        draw_logprobs_nM=(tail_nV.gather(1, draws_nM) - log_z_n1).float(),
        label_logprobs_n=(label_n1 - log_z_n1).squeeze(1).float(),
        entropies_n=(log_z_n1 - energy_n1).squeeze(1).float(),
    )


def _tail_sums(
    tail_nV: Tensor, uniforms_nM: Tensor, layout: RecordLayout, powers_nV: Tensor
) -> tuple[dict[float, Tensor], Tensor, Tensor]:
    """β -> log Σ exp(βx) as float64 [n, 1]; the draws ∝ exp(β_d x); and Σ x·exp(x), for the entropy.

    exp(x/4) squared is exp(x/2), and that squared exp(x): one exponential serves a chain of doubled betas, all of it in
    the room that `powers_nV` gives.
    """
    log_sums: dict[float, Tensor] = {}
    draws_nM = torch.empty(uniforms_nM.shape, dtype=torch.int64, device=tail_nV.device)
    energy_n1 = torch.zeros_like(tail_nV[:, :1], dtype=torch.float64)
    for chain in _doubling_chains(layout.betas):
        torch.mul(tail_nV, chain[0] * _LOG2_E, out=powers_nV).exp2_()
        for beta in chain:
            if beta != chain[0]:
                powers_nV.square_()
            log_sums[beta] = powers_nV.sum(dim=1, keepdim=True).double().log_()
            if beta == layout.draw_beta and layout.num_draws:
                draws_nM = draw_ids(powers_nV, uniforms_nM)
            if beta == 1.0:
                energy_n1 = powers_nV.mul_(tail_nV).sum(dim=1, keepdim=True).double()  # β = 1 ends its chain
    return log_sums, draws_nM, energy_n1


def _score_whole(logits_nV: Tensor, labels_n: Tensor, layout: RecordLayout) -> Scores:
    """K ≥ V: the head is the whole vocabulary, the tail is empty, and nothing is drawn."""
    num_rows, vocab_size = logits_nV.shape
    logp_nV = logits_nV.double().log_softmax(dim=1)
    ids_V = torch.arange(vocab_size, device=logits_nV.device)
    return Scores(
        ids_nK=ids_V.expand(num_rows, vocab_size),
        logprobs_nK=logp_nV.float(),
        tail_nR=logits_nV.new_full((num_rows, len(layout.betas)), -math.inf),
        draw_ids_nM=ids_V.new_empty(num_rows, 0),
        draw_logprobs_nM=logits_nV.new_empty(num_rows, 0),
        label_logprobs_n=logp_nV.gather(1, labels_n.unsqueeze(1)).squeeze(1).float(),
        entropies_n=-(logp_nV.exp() * logp_nV).sum(dim=1).float(),
    )


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


def _doubling_chains(betas: tuple[float, ...]) -> Iterator[tuple[float, ...]]:
    """Betas grouped so that each is twice the one before: (1/4, 1/2, 1), (1/3,), (0.7,), (0.9,)."""
    left = sorted(betas)
    while left:
        chain = [left.pop(0)]
        while 2 * chain[-1] in left:
            left.remove(2 * chain[-1])
            chain.append(2 * chain[-1])
        yield tuple(chain)


def _concatenate(parts: list[Scores]) -> Scores:
    return Scores(*(torch.cat([getattr(part, name) for part in parts]) for name in Scores.__slots__))
