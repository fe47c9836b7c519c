"""The loss by another route: whole float64 logits, autograd, and a teacher whose full distribution is known.

Nothing here is shared with the library but the container of records.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import Records
from pipeline.models.head import Head

DRAW_BETA = 0.7


@dataclass
class Teacher:
    """Full log-probabilities [N, V] in float64 and the records a cache would hold of them."""

    logp_NV: Tensor
    records: Records
    tail_NV: Tensor = field(init=False)
    """bool: outside the head"""

    def __post_init__(self) -> None:
        head_NK = torch.from_numpy(self.records.ids_TK.astype(np.int64))
        self.tail_NV = torch.ones_like(self.logp_NV, dtype=torch.bool).scatter_(1, head_NK, False)


def make_teacher(logits_NV: Tensor, head_size: int, num_draws: int, seed: int = 0) -> Teacher:
    """Exact records (float32 fields) of a teacher with these logits."""
    logp_NV = logits_NV.double().log_softmax(1)
    count, vocab_size = logp_NV.shape
    layout = RecordLayout.for_vocabulary(vocab_size, head_size, num_draws, DRAW_BETA)
    ids_NK = logp_NV.topk(layout.head_size, dim=1).indices.sort(dim=1).values
    hidden_NV = logp_NV.clone().scatter_(1, ids_NK, -torch.inf)
    tail_NR = torch.stack([(hidden_NV * beta).logsumexp(1) for beta in layout.betas], dim=1)
    draws_NM = torch.zeros(count, 0, dtype=torch.int64)
    if layout.num_draws:
        generator = torch.Generator().manual_seed(seed)
        weights_NV = (hidden_NV * DRAW_BETA).softmax(1)
        draws_NM = torch.multinomial(weights_NV, layout.num_draws, replacement=True, generator=generator)
    entropies_N = -(logp_NV.exp() * logp_NV).sum(1).numpy().astype(np.float32)
    return Teacher(
        logp_NV,
        Records(
            layout,
            ids_NK.numpy().astype(np.uint32),
            logp_NV.gather(1, ids_NK).numpy().astype(np.float32),
            tail_NR.numpy().astype(np.float32),
            draws_NM.numpy().astype(np.uint32),
            logp_NV.gather(1, draws_NM).numpy().astype(np.float32),
            np.zeros(count, np.float32),
            entropies_N,
        ),
    )


def dense_logits(hidden_ND: Tensor, head: Head) -> Tensor:
    """The head's formula, as its documentation has it, in float64."""
    if head.weight_VD is None:
        return hidden_ND.double()[:, : head.num_effective]
    logits_NV = hidden_ND.double() @ head.weight_VD.double().T
    if head.bias_V is not None:
        logits_NV = logits_NV + head.bias_V.double()
    logits_NV = logits_NV * head.scale
    if head.softcap is not None:
        logits_NV = head.softcap * torch.tanh(logits_NV / head.softcap)
    return logits_NV[:, : head.num_effective]


def cross_entropy(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    return -logits_NV.log_softmax(1).gather(1, labels_N[:, None])[:, 0]


def full_kl(logits_NV: Tensor, logp_NV: Tensor, temperature: float) -> Tensor:
    """KL over all V outcomes from the teacher's log-probabilities at temperature 1, nats [N]."""
    logp_NV = (logp_NV / temperature).log_softmax(1)
    return (logp_NV.exp() * (logp_NV - (logits_NV / temperature).log_softmax(1))).sum(1)


def full(logits_NV: Tensor, logp_NV: Tensor, temperature: float, objective: str) -> Tensor:
    """The objective over all V outcomes, from the teacher's log-probabilities at temperature 1, nats [N]."""
    if objective == "ranked":
        return plackett_luce(logits_NV / temperature, logp_NV)
    p_NV, q_NV = (logp_NV / temperature).log_softmax(1), (logits_NV / temperature).log_softmax(1)
    if objective in ("reverse_kl", "jsd"):
        return {"reverse_kl": reverse_kl, "jsd": jsd}[objective](p_NV, q_NV)
    return full_kl(logits_NV, logp_NV, temperature)


def reverse_kl(logp_NJ: Tensor, logq_NJ: Tensor) -> Tensor:
    return (logq_NJ.exp() * (logq_NJ - logp_NJ)).sum(1)


def jsd(logp_NJ: Tensor, logq_NJ: Tensor) -> Tensor:
    """As half of two KL divergences to the middle, which is summed as probabilities."""
    middle_NJ = ((logp_NJ.exp() + logq_NJ.exp()) / 2).clamp_min(1e-300).log()
    return (logp_NJ.exp() * (logp_NJ - middle_NJ) + logq_NJ.exp() * (logq_NJ - middle_NJ)).sum(1) / 2


def plackett_luce(scores_NK: Tensor, teacher_NK: Tensor) -> Tensor:
    """Mean over those with a choice: each id competes with all that the teacher does not put above it. No sorting."""
    not_above_NKK = teacher_NK[:, None, :] <= teacher_NK[:, :, None]
    rivals_NKK = scores_NK[:, None, :].masked_fill(~not_above_NKK, -torch.inf)
    chooses_NK = not_above_NKK.sum(2) > 1
    nats_NK = (rivals_NKK.logsumexp(2) - scores_NK).where(chooses_NK, 0.0)
    return nats_NK.sum(1) / chooses_NK.sum(1).clamp_min(1)


def rank(logits_NV: Tensor, teacher: Teacher) -> Tensor:
    """Plackett and Luce's model of the teacher's order of the head at temperature 1, nats a choice [N]."""
    ids_NK = torch.from_numpy(teacher.records.ids_TK.astype(np.int64))
    return plackett_luce(logits_NV.gather(1, ids_NK), torch.from_numpy(teacher.records.logprobs_TK))


def kd(logits_NV: Tensor, teacher: Teacher, temperature: float, objective: str) -> Tensor:
    """The objective from whole distributions, nats [N]."""
    logp_NV = (teacher.logp_NV / temperature).log_softmax(1)
    logq_NV = (logits_NV / temperature).log_softmax(1)
    tail_NV, ids_NK = teacher.tail_NV, torch.from_numpy(teacher.records.ids_TK.astype(np.int64))
    p_NK, q_NK = logp_NV.gather(1, ids_NK), logq_NV.gather(1, ids_NK)
    if objective == "ranked":
        return plackett_luce(q_NK, torch.from_numpy(teacher.records.logprobs_TK))
    if objective == "subset":
        p_NK, q_NK = p_NK.log_softmax(1), q_NK.log_softmax(1)
        return (p_NK.exp() * (p_NK - q_NK)).sum(1)
    value_N = (p_NK.exp() * (p_NK - q_NK)).sum(1)
    p_tail_N = logp_NV.masked_fill(~tail_NV, -torch.inf).logsumexp(1)
    q_tail_N = logq_NV.masked_fill(~tail_NV, -torch.inf).logsumexp(1)
    if objective in ("reverse_kl", "jsd"):
        if tail_NV.any():
            p_NK, q_NK = torch.cat([p_NK, p_tail_N[:, None]], 1), torch.cat([q_NK, q_tail_N[:, None]], 1)
        return {"reverse_kl": reverse_kl, "jsd": jsd}[objective](p_NK, q_NK)
    if not tail_NV.any():
        return value_N
    value_N = value_N + p_tail_N.exp() * (p_tail_N - q_tail_N)
    if objective == "bucket":
        return value_N
    draws_NM = torch.from_numpy(teacher.records.draw_ids_TM.astype(np.int64))
    proposal_NV = (teacher.logp_NV * DRAW_BETA).masked_fill(~tail_NV, -torch.inf).log_softmax(1)
    within_p_NM = logp_NV.gather(1, draws_NM) - p_tail_N[:, None]
    within_q_NM = logq_NV.gather(1, draws_NM) - q_tail_N[:, None]
    ratio_NM = (within_p_NM - proposal_NV.gather(1, draws_NM)).exp()
    return value_N + p_tail_N.exp() * (ratio_NM * (within_p_NM - within_q_NM)).mean(1)
