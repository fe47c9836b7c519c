"""The teacher's side of the loss: records brought to the temperature of a step.

    A(β) = Σ_r w_r(β)·A(β_r)                          log tail mass, the polynomial through the stored betas
    logZ(β) = logaddexp( logsumexp_head(β·log p), A(β) )
    log p_τ(i) = β·log p(i) − logZ(β)                 log p_τ(tail) = A(β) − logZ(β)

Letters: **N** positions, **K** head ids, **M** tail draws, **R** stored betas; β = 1/τ. Nats everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from pipeline.cache.records import tail_weights
from pipeline.distill.loss.record_tensors import RecordTensors
from pipeline.distill.settings import HEAD_ONLY, Objective

LEAST_LABEL_NATS = 1 / 3072
"""taken for a label's −log p that `sampled` records round to 0. That stands for 0 to 1/1,024 nats, and this is the mean
where its square root, which is what is rounded, is uniform"""


@dataclass(frozen=True, slots=True, eq=False)
class SoftTarget:
    """What the student is to match at N positions, at one temperature and for one objective."""

    ids_NK: Tensor
    logp_head_NK: Tensor
    """log p_τ of the head ids; −inf at padding. For `subset` they sum to 1 over the head; for `ranked`, of which only
    the order counts, they are as stored, so that rounding makes no ties at one temperature that another has not"""
    logp_tail_N: Tensor
    """log p_τ of the tail as a whole; −inf for `subset` and `ranked`"""
    top_ids_N: Tensor
    """the teacher's likeliest id"""
    draw_ids_NM: Tensor
    """tail draws; M = 0 unless the objective is `sampled_tail`"""
    draw_masses_NM: Tensor
    """m_j: the mass of p_τ each draw stands for; Σ_j m_j is p_τ(tail) in expectation"""
    draw_logp_NM: Tensor
    """log p_τ(j | tail); meaningless where m_j is 0. `sampled` records do not hold it, so there it is what it is on
    average"""
    order_NK: Tensor
    """log p of the head ids as stored, which say in what order they come; [N, 0] unless wanted"""
    facts_N3: Tensor
    """at τ = 1: entropy, log p of the label, mass in the head; [N, 0] unless wanted"""

    @classmethod
    def of(
        cls,
        records: RecordTensors,
        labels_N: Tensor,
        temperature: float,
        objective: Objective,
        with_order: bool = False,
        with_facts: bool = False,
    ) -> Self:
        """Soften records; ValueError outside temperatures 1 to 4, or for `sampled_tail` without draws.

        `labels_N` are the records' own. `with_order` is for the likelihood of the head's order, `with_facts` for a
        router.
        """
        logp_head_NK, logp_tail_N = soften(records, temperature)
        if records.layout.kind == "sampled" and objective == "sampled_tail":
            return cls._beside_label(records, labels_N, with_facts)
        if objective in HEAD_ONLY:
            logp_head_NK = records.logprobs_NK if objective == "ranked" else logp_head_NK.log_softmax(dim=1)
            logp_tail_N = torch.full_like(logp_tail_N, -torch.inf)
        draws = tail_draws(records, temperature, logp_tail_N, objective)
        top_NI = records.logprobs_NK.argmax(dim=1, keepdim=True)
        top_ids_N, nothing_N0 = records.ids_NK.gather(1, top_NI)[:, 0], records.logprobs_NK[:, :0]
        order_NK = records.logprobs_NK if with_order else nothing_N0
        facts_N3 = teacher_facts(records) if with_facts else nothing_N0
        return cls(records.ids_NK, logp_head_NK, logp_tail_N, top_ids_N, *draws, order_NK, facts_N3)

    @classmethod
    def _beside_label(cls, records: RecordTensors, labels_N: Tensor, with_facts: bool) -> Self:
        """Of `sampled` records: the label is the head, and what was drawn beside it stands for the tail."""
        logp_label_N1 = records.label_logprobs_N[:, None].clamp_max(-LEAST_LABEL_NATS)
        masses_NK = drawn_beside(records, labels_N, logp_label_N1)
        logp_rest_N1 = _log_complement(logp_label_N1)
        top_NI = records.logprobs_NK.argmax(dim=1, keepdim=True)
        nothing_N0 = records.logprobs_NK[:, :0]
        return cls(
            ids_NK=labels_N[:, None],
            logp_head_NK=logp_label_N1,
            logp_tail_N=logp_rest_N1[:, 0],
            top_ids_N=records.ids_NK.gather(1, top_NI)[:, 0],
            draw_ids_NM=records.ids_NK,
            draw_masses_NM=masses_NK,
            draw_logp_NM=_mean_logp_beside(records, logp_label_N1, logp_rest_N1).expand_as(masses_NK),
            order_NK=nothing_N0,
            facts_N3=teacher_facts(records) if with_facts else nothing_N0,
        )

    @classmethod
    def nothing(cls, weights_N: Tensor) -> Self:
        """The target of labels-only training: no head, no draws, nothing to match."""
        floats_N0 = weights_N.new_zeros(len(weights_N), 0)
        ids_N0 = floats_N0.long()
        empty_N, ids_N = torch.full_like(weights_N, -torch.inf), torch.zeros_like(weights_N, dtype=torch.int64)
        return cls(ids_N0, floats_N0, empty_N, ids_N, ids_N0, floats_N0, floats_N0, floats_N0, floats_N0)

    def rows(self, rows: slice | Tensor) -> Self:
        """The targets of some positions."""
        return type(self)(
            self.ids_NK[rows],
            self.logp_head_NK[rows],
            self.logp_tail_N[rows],
            self.top_ids_N[rows],
            self.draw_ids_NM[rows],
            self.draw_masses_NM[rows],
            self.draw_logp_NM[rows],
            self.order_NK[rows],
            self.facts_N3[rows],
        )

    def effective_draws(self) -> Tensor:
        """Effective sample size (Σ m_j)² / Σ m_j² of the draws [N], 1 to M; 0 where the tail is empty."""
        squares_N = self.draw_masses_NM.square().sum(dim=1)
        return torch.where(squares_N > 0, self.draw_masses_NM.sum(dim=1).square() / squares_N, 0.0)


def drawn_beside(records: RecordTensors, labels_N: Tensor, logp_label_N1: Tensor) -> Tensor:
    """Masses m_j of the ids of `sampled` records, [N, K]; no mass for the label l.

        m_j = (1 − p_l)/(1 − p_l^N) · c_j/(N − c_l)

    c_j of the N draws from p were j. Those beside the label are drawn from p without it; there are none with
    probability p_l^N, and the denominator makes up for that: Σ_j m_j·f(j) estimates Σ_{v ≠ l} p(v)·f(v) without bias.
    The record holds p_l itself, so how often the label came up, which is much of the noise where the teacher is sure,
    no longer counts (Rao-Blackwell).
    """
    num_draws = records.layout.num_draws
    counts_NK = (records.logprobs_NK.exp() * num_draws).round()
    counts_NK = counts_NK.masked_fill(records.ids_NK == labels_N[:, None], 0.0)
    shares_NK = counts_NK / counts_NK.sum(dim=1, keepdim=True).clamp_min(1.0)
    log_scale_N1 = _log_complement(logp_label_N1) - _log_complement(logp_label_N1 * num_draws)
    return shares_NK * log_scale_N1.exp()


def _mean_logp_beside(records: RecordTensors, logp_label_N1: Tensor, logp_rest_N1: Tensor) -> Tensor:
    """Σ_v p(v)·log p(v) over v ≠ l under p without the label l, [N, 1]: by the chain rule of entropy,

        −( H − h_l ) / (1 − p_l),    h_l = −p_l·log p_l − (1 − p_l)·log(1 − p_l)

    from the stored entropy H. The logarithm of an id's share of the draws would be higher on average, by the noise of
    the draws, which is no part of the distance to the teacher. (Where H is stored rounded, it may come out above 0.)
    """
    p_rest_N1 = logp_rest_N1.exp()
    of_label_N1 = -(logp_label_N1.exp() * logp_label_N1 + p_rest_N1 * logp_rest_N1)
    return (of_label_N1 - records.entropies_N[:, None]) / p_rest_N1


def _log_complement(logp: Tensor) -> Tensor:
    """log(1 − p) from log p < 0."""
    return torch.log(-torch.expm1(logp))


def teacher_facts(records: RecordTensors) -> Tensor:
    """What the cache says of the teacher at τ = 1 [N, 3]: entropy and log p of the label, in nats, and the head's mass
    as a share (1 of `sampled` records, whose head is all that was drawn)."""
    mass_N = records.logprobs_NK.logsumexp(dim=1).exp()
    return torch.stack([records.entropies_N, records.label_logprobs_N, mass_N], dim=1)


def soften(records: RecordTensors, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities [N, K] of the head ids and [N] of the tail, at another temperature.

    ValueError outside temperatures 1 to 4, where the stored tail masses say nothing.
    """
    beta = records.layout.beta_of(temperature)
    scaled_NK = records.logprobs_NK * beta
    tail_N = log_tail_mass(records, beta)
    log_z_N = torch.logaddexp(scaled_NK.logsumexp(dim=1), tail_N)
    return scaled_NK - log_z_N[:, None], tail_N - log_z_N


def log_tail_mass(records: RecordTensors, beta: float) -> Tensor:
    """A(β) [N]; −inf where any stored mass is −inf: such a tail is empty. Summed in float64: the weights alternate."""
    empty_NR = records.tail_NR.isneginf()
    stored_NR = records.tail_NR.double().masked_fill_(empty_NR, 0.0)
    total_N = stored_NR.new_zeros(len(records))
    for weight, stored_N in zip(tail_weights(records.betas, beta), stored_NR.unbind(dim=1), strict=True):
        total_N.add_(stored_N, alpha=float(weight))
    return total_N.masked_fill_(empty_NR.any(dim=1), -torch.inf).to(records.tail_NR.dtype)


def tail_draws(
    records: RecordTensors, temperature: float, logp_tail_N: Tensor, objective: Objective
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, masses m_j and log p_τ(j | tail) of the draws, each [N, M]; M = 0 where the objective has no use for them.

        m_j = p_τ(tail)/M · exp( (β − β_d)·log p(j) + A(β_d) − A(β) )

    The draws come from the tail's p^β_d, so Σ_j m_j·f(j) estimates Σ_{v in tail} p_τ(v)·f(v) without bias.
    """
    if objective != "sampled_tail":
        nothing_N0 = records.draw_logprobs_NM[:, :0]
        return records.draw_ids_NM[:, :0], nothing_N0, nothing_N0
    num_draws, head_size = records.draw_ids_NM.shape[1], records.ids_NK.shape[1]
    if num_draws == 0 and head_size < records.vocab_size:
        raise ValueError(
            f"objective sampled_tail: expected tail draws in the records, found none for the {records.vocab_size:,} − "
            f"{head_size:,} ids outside the head; use the objective bucket, or make a cache with draws"
        )
    beta = records.layout.beta_of(temperature)
    mass_N1 = log_tail_mass(records, beta)[:, None]
    logits_NM = records.draw_logprobs_NM * (beta - records.draw_beta)
    log_ratio_NM = logits_NM + (log_tail_mass(records, records.draw_beta)[:, None] - mass_N1)
    masses_NM = (log_ratio_NM + logp_tail_N[:, None]).exp() / max(num_draws, 1)
    masses_NM = masses_NM.masked_fill(logp_tail_N.isneginf()[:, None], 0.0)
    return records.draw_ids_NM, masses_NM, records.draw_logprobs_NM * beta - mass_N1
