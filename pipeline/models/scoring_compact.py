"""Scoring for the kind `compact`: a head of as many of the likeliest ids as reach a mass, at most K of them.

The K likeliest are found first and everything beyond them summed, as for a whole head; then each row keeps the fewest
whose mass reaches `head_mass`, and those left over join the tail, in float64.

Shapes: **n** positions, **V** effective vocabulary, **K** candidates, **M** draws, **R** betas. Everything in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import PADDING_ID
from pipeline.models.draws import draw_ids, running_sums
from pipeline.models.head_and_tail import HeadAndTail
from pipeline.models.scores import Scores
from pipeline.models.tail_sums import LOG2_E, NOT_TAIL, tail_sums


def score_compact(
    logits_nV: Tensor, labels_n: Tensor, uniforms_nM: Tensor, layout: RecordLayout, work_nV: Tensor
) -> Scores:
    """Score a block; heads are padded to K with PADDING_ID and log p −inf."""
    split = HeadAndTail.of(logits_nV, labels_n, layout.head_size)
    ids_nK, candidates_nK, beyond_nV = split.ids_nK, split.head_nK, split.tail_nV
    sums = tail_sums(beyond_nV, layout.betas, work_nV)

    log_z_n1 = torch.logaddexp(candidates_nK.logsumexp(dim=1, keepdim=True), sums.log_sums[1.0])
    logp_nK = candidates_nK - log_z_n1
    kept_nK = fewest_reaching(logp_nK, layout.head_mass)
    left_nK = candidates_nK.masked_fill(kept_nK, -torch.inf)
    log_tails = [
        torch.logaddexp((beta * left_nK).logsumexp(dim=1, keepdim=True), sums.log_sums[beta]) - beta * log_z_n1
        for beta in layout.betas
    ]
    # The candidates that are left over go back to their columns, one of which may tower above all that is beyond them:
    # the tail is drawn from whole, and relative to its own largest.
    highest_n1 = left_nK.amax(dim=1, keepdim=True).clamp_min(0.0).float()
    tail_nV = beyond_nV.sub_(highest_n1).scatter_(1, ids_nK, (left_nK - highest_n1).clamp_min(NOT_TAIL).float())
    draws_nM = _draw(tail_nV, uniforms_nM, layout.draw_beta, work_nV)
    energy_n1 = (logp_nK.exp() * candidates_nK).sum(dim=1, keepdim=True) + sums.energy_n1 * torch.exp(-log_z_n1)
    return Scores(
        *_padded(ids_nK, logp_nK, kept_nK),
        tail_nR=torch.cat(log_tails, dim=1).float(),
        draw_ids_nM=draws_nM,
        draw_logprobs_nM=(tail_nV.gather(1, draws_nM) + (highest_n1 - log_z_n1)).float(),
        label_logprobs_n=(split.label_n1 - log_z_n1).squeeze(1).float(),
        entropies_n=(log_z_n1 - energy_n1).squeeze(1).float(),
    )


def fewest_reaching(logp_nK: Tensor, mass: float) -> Tensor:
    """Bool [n, K]: the fewest, likeliest entries of each row whose sum reaches `mass`, at least one, or all K.

    Among equals the first (the lowest id) is taken first.
    """
    sorted_nK, order_nK = logp_nK.sort(dim=1, descending=True, stable=True)
    mass_nK = sorted_nK.exp()
    before_nK = running_sums(mass_nK.clone()) - mass_nK
    return torch.zeros_like(order_nK, dtype=torch.bool).scatter_(1, order_nK, before_nK < mass)


def _draw(tail_nV: Tensor, uniforms_nM: Tensor, beta: float, powers_nV: Tensor) -> Tensor:
    """Draws ∝ p^β from logits relative to their largest."""
    if not uniforms_nM.shape[1]:
        return torch.empty(uniforms_nM.shape, dtype=torch.int64, device=tail_nV.device)
    torch.mul(tail_nV, beta * LOG2_E, out=powers_nV).exp2_()
    return draw_ids(powers_nV, uniforms_nM)


def _padded(ids_nK: Tensor, logp_nK: Tensor, kept_nK: Tensor) -> tuple[Tensor, Tensor]:
    """The kept entries to the front, in the order of their ids, and padding behind."""
    ids_nK = ids_nK.masked_fill(~kept_nK, PADDING_ID)
    ids_nK, order_nK = ids_nK.sort(dim=1)
    return ids_nK, logp_nK.masked_fill(~kept_nK, -torch.inf).gather(1, order_nK).float()
