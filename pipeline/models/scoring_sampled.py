"""Scoring for the kind `sampled`: N ids drawn from the teacher's distribution itself, as unique ids with counts.

With p̂(v) = count(v)/N the loss Σ_v p̂(v)·log( p̂(v)/q(v) ) has the gradient q − p̂ by the student's logits, which is full
KD's on average over draws: Random-Sampling KD (Anshumann et al. 2025, arXiv:2503.16870, section 3).

Shapes: **n** positions, **V** effective vocabulary, **N** draws, **K** unique ids at most. Everything in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import PADDING_ID
from pipeline.models.draws import draw_ids
from pipeline.models.scores import Scores
from pipeline.models.tail_sums import LOG2_E


def score_sampled(
    logits_nV: Tensor, labels_n: Tensor, uniforms_nN: Tensor, layout: RecordLayout, work_nV: Tensor
) -> Scores:
    """Score a block; log p is log(count/N), padded to K with PADDING_ID and −inf."""
    highest_n1 = logits_nV.amax(dim=1, keepdim=True)
    label_n1 = logits_nV.gather(1, labels_n.unsqueeze(1)).double() - highest_n1
    logits_nV.sub_(highest_n1)
    torch.mul(logits_nV, LOG2_E, out=work_nV).exp2_()
    log_z_n1 = work_nV.sum(dim=1, keepdim=True).double().log_()
    ids_nK, counts_nK = count_unique(draw_ids(work_nV, uniforms_nN), layout.head_size)
    energy_n1 = work_nV.mul_(logits_nV).sum(dim=1, keepdim=True).double() * torch.exp(-log_z_n1)
    nothing_n0 = work_nV[:, :0]
    return Scores(
        ids_nK=ids_nK,
        logprobs_nK=(counts_nK.double() / layout.num_draws).log().float(),
        tail_nR=work_nV.new_full((len(work_nV), layout.num_betas), -torch.inf),
        draw_ids_nM=nothing_n0.long(),
        draw_logprobs_nM=nothing_n0.clone(),
        label_logprobs_n=(label_n1 - log_z_n1).squeeze(1).float(),
        entropies_n=(log_z_n1 - energy_n1).squeeze(1).float(),
    )


def count_unique(ids_nN: Tensor, head_size: int) -> tuple[Tensor, Tensor]:
    """Unique ids of ascending draws [n, K], padded with PADDING_ID, and how often each was drawn (padding: 0)."""
    new_nN = torch.ones_like(ids_nN)
    new_nN[:, 1:] = ids_nN[:, 1:] != ids_nN[:, :-1]
    place_nN = new_nN.cumsum(dim=1) - 1
    ids_nK = torch.full((len(ids_nN), head_size), PADDING_ID, dtype=torch.int64, device=ids_nN.device)
    counts_nK = torch.zeros_like(ids_nK)
    return ids_nK.scatter_(1, place_nN, ids_nN), counts_nK.scatter_add_(1, place_nN, torch.ones_like(ids_nN))
