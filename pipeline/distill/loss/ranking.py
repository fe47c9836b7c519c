"""How likely the student finds the teacher's order of the head: Plackett and Luce's model of choosing one by one.

    ranked = 1/C · Σ_{i in head} ( log Σ_{j at or below i} exp(βz_j) − βz_i )

"At or below" is by the teacher's log-probability: equals are one group, and each member of a group chooses among its
own group and all below it (Breslow 1974, "Covariance analysis of censored survival data"), so the order within a group
means nothing. C counts the ids that have something to choose, all but a last one that is alone: the unit is nats a
choice, and does not grow with K. Without ties this is the likelihood of Plackett 1975 ("The analysis of permutations"),
as a loss ListMLE (Xia et al. 2008, "Listwise approach to learning to rank", the likelihood loss).

Ties are common, not rare: a cache of `fine` precision stores a head's unlikely entries in steps of up to half a nat.

Only the teacher's order counts, not its numbers, so the minimum is not where student and teacher agree, nor is it zero:
without ties the value falls towards 0 as the gaps between the student's scores grow without end; a group of m ids adds
m·log m / C to that. At student = teacher the gradient of the likeliest id is (q(i|head) − 1)/C: it pushes on, towards
a sharper order. So it is a companion of another term (the labels', say), or for students whose calibration is of no
concern.

With D_k the first logarithm, of all that k is chosen from, and −1 only where i has something to choose,

    ∂/∂(βz_i) = 1/C · ( Σ_{k at or above i} exp(βz_i − D_k) − 1 )

which is bounded by 1 from above, by −1/C from below, and zero in sum. Letters: **n** positions, **K** head ids.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.distill.loss.divergences import Distance


def ranked(student_nK: Tensor, logp_nK: Tensor) -> Distance:
    """`ranked`, of the student's βz and the teacher's log-probabilities of the head.

    Padding (log-probability −inf) takes no part, and a head of one id is no choice. The gradient is by βz.
    """
    teacher_nK, order_nK = logp_nK.sort(dim=1, descending=True)
    scores_nK, real_nK = student_nK.gather(1, order_nK), ~teacher_nK.isneginf()
    first_nK, last_nK = _group_edges(teacher_nK)

    below_nK = scores_nK.flip(1).logcumsumexp(dim=1).flip(1)  # log Σ exp over each place and all below it
    choice_nK = below_nK.gather(1, first_nK)
    num_real_n1 = real_nK.sum(dim=1, keepdim=True)
    chooses_nK = real_nK & (first_nK < num_real_n1 - 1)
    num_choices_n1 = chooses_nK.sum(dim=1, keepdim=True).clamp_min(1)
    nats_nK = torch.where(chooses_nK, choice_nK - scores_nK, 0.0)

    above_nK = torch.where(chooses_nK, -choice_nK, -torch.inf).logcumsumexp(dim=1).gather(1, last_nK)
    chosen_nK = torch.where(real_nK, (scores_nK + above_nK).exp() - chooses_nK.to(scores_nK.dtype), 0.0)
    gradient_nK = torch.empty_like(scores_nK).scatter_(1, order_nK, chosen_nK / num_choices_n1)
    return Distance.within_head(nats_nK.sum(dim=1, keepdim=True) / num_choices_n1, gradient_nK)


def _group_edges(falling_nK: Tensor) -> tuple[Tensor, Tensor]:
    """First and last place [n, K] of the group of equals that each place of descending rows is in."""
    places_nK = torch.arange(falling_nK.shape[1], device=falling_nK.device).expand_as(falling_nK)
    differs_nK = falling_nK[:, 1:] != falling_nK[:, :-1]
    edge_n1 = differs_nK.new_ones(len(falling_nK), 1)
    starts_nK, ends_nK = torch.cat([edge_n1, differs_nK], dim=1), torch.cat([differs_nK, edge_n1], dim=1)
    first_nK = torch.where(starts_nK, places_nK, 0).cummax(dim=1).values
    last_nK = torch.where(ends_nK, places_nK, falling_nK.shape[1] - 1).flip(1).cummin(dim=1).values.flip(1)
    return first_nK, last_nK
