"""From the teacher's logits to what a record keeps of them, one chunk of positions at a time.

    log p(v) = z_v − log Σ_V exp z          A(β) = log Σ_{v in tail} p(v)^β          H = −Σ_V p log p

The tail is everything outside the head. Its sums are stabilised by its own largest logit, never taken as 1 − Σ head:
for a confident teacher that difference has no correct digit. The chunk's logits are used up in place; passes over
[n, V] are what this costs, so each is counted.

Shapes: **n** positions, **V** effective vocabulary, **K** head size, **M** draws, **R** betas. Everything in nats.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.cache.layout import RecordLayout
from pipeline.models.draws import draw_ids
from pipeline.models.head_and_tail import HeadAndTail
from pipeline.models.scores import Scores
from pipeline.models.scoring_compact import score_compact
from pipeline.models.scoring_sampled import score_sampled
from pipeline.models.tail_sums import tail_sums

_CPU_BLOCK_BYTES = 2 * 2**20  # logits worked on at once on CPU: what stays in a core's cache


def score(logits_nV: Tensor, labels_n: Tensor, uniforms_nM: Tensor, layout: RecordLayout) -> Scores:
    """Score finite float32 logits, which are destroyed; `labels_n` int64, `uniforms_nM` float64 in [0, 1).

    M is `layout.num_draws`: of the kind `sampled`, N.
    """
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
    return Scores.concatenate(parts) if len(parts) > 1 else parts[0]


def finite_rows(logits_nV: Tensor) -> Tensor:
    """Bool [n]: rows without NaN or infinity. A sum carries either to the end of its row."""
    return logits_nV.sum(dim=1).isfinite()


def _score_block(
    logits_nV: Tensor, labels_n: Tensor, uniforms_nM: Tensor, layout: RecordLayout, work_nV: Tensor
) -> Scores:
    if layout.kind == "sampled":
        return score_sampled(logits_nV, labels_n, uniforms_nM, layout, work_nV)
    if layout.kind == "compact":
        return score_compact(logits_nV, labels_n, uniforms_nM, layout, work_nV)
    if layout.head_size >= logits_nV.shape[1]:
        return _score_whole(logits_nV, labels_n, layout)
    return _score_topk(logits_nV, labels_n, uniforms_nM, layout, work_nV)


def _score_topk(
    logits_nV: Tensor, labels_n: Tensor, uniforms_nM: Tensor, layout: RecordLayout, work_nV: Tensor
) -> Scores:
    split = HeadAndTail.of(logits_nV, labels_n, layout.head_size)
    head_nK, tail_nV = split.head_nK, split.tail_nV
    draws_nM = torch.empty(uniforms_nM.shape, dtype=torch.int64, device=tail_nV.device)

    def draw(beta: float, powers_nV: Tensor) -> None:
        if beta == layout.draw_beta and layout.num_draws:
            draws_nM.copy_(draw_ids(powers_nV, uniforms_nM))

    sums = tail_sums(tail_nV, layout.betas, work_nV, look=draw)
    log_z_n1 = torch.logaddexp(head_nK.logsumexp(dim=1, keepdim=True), sums.log_sums[1.0])
    tail_nR = torch.cat([sums.log_sums[beta] - beta * log_z_n1 for beta in layout.betas], dim=1)
    head_logp_nK = head_nK - log_z_n1
    energy_n1 = (head_logp_nK.exp() * head_nK).sum(dim=1, keepdim=True) + sums.energy_n1 * torch.exp(-log_z_n1)
    return Scores(
        ids_nK=split.ids_nK,
        logprobs_nK=head_logp_nK.float(),
        tail_nR=tail_nR.float(),
        draw_ids_nM=draws_nM,
        draw_logprobs_nM=(tail_nV.gather(1, draws_nM) - log_z_n1).float(),
        label_logprobs_n=(split.label_n1 - log_z_n1).squeeze(1).float(),
        entropies_n=(log_z_n1 - energy_n1).squeeze(1).float(),
    )


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
