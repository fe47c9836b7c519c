"""The distillation loss: labels and the teacher's records, through the output matrix in chunks of positions.

    loss = Σ_n w_n·( r_ce·ce_weight·CE_n + r_kd·kd_weight·τ²·KD_n + r_rank·rank_weight·RANK_n ) / normaliser

with r = 1 unless a router says otherwise. The terms and their gradients are in `objectives.py`, `divergences.py` and
`ranking.py`, the teacher's side in `softening.py`, routers in `routing.py`, the chunks in `head_loss.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from pipeline.cache.records import Records
from pipeline.distill.loss.head_loss import HeadLoss, LossInputs
from pipeline.distill.loss.objectives import Goal, Scores
from pipeline.distill.loss.record_tensors import RecordTensors
from pipeline.distill.loss.routing import Router
from pipeline.distill.loss.softening import SoftTarget
from pipeline.distill.settings import SAMPLED_OBJECTIVES, Objective
from pipeline.models.head import Head


@dataclass(frozen=True, slots=True, eq=False)
class LossParts:
    """The loss and what it is made of. All but `loss` are detached, and zero where the weight is zero."""

    loss: Tensor
    """scalar, weighted and normalised; call backward() on it, once"""
    ce_N: Tensor
    """−log q_1(label), nats, unweighted"""
    kd_N: Tensor | None
    """the objective at temperature τ, nats, unweighted and without τ²; None where it has no weight.

    A single position of `sampled_tail` is an estimate and may be negative."""
    agreement_N: Tensor | None
    """bool: the student's largest logit is at the teacher's likeliest id; None for labels only"""
    effective_draws_N: Tensor | None
    """effective sample size of the tail draws, 0..M (of `sampled` records, of the ids drawn beside the label, each
    weighing as often as it came up); None where the objective uses none"""
    rank_N: Tensor | None = None
    """`ranked` at τ = 1, nats a choice, unweighted; None where it has no weight"""
    signals_N6: Tensor | None = None
    """what the router looked at, in the order of `routing.Signal`; None without a router"""
    routes_N3: Tensor | None = None
    """the router's weights of ce, kd and rank; None without a router"""


def distillation_loss(
    hidden_ND: Tensor,
    head: Head,
    labels_N: Tensor,
    records: Records | RecordTensors | None,
    temperature: float = 1.0,
    objective: Objective = "sampled_tail",
    ce_weight: float = 0.1,
    kd_weight: float = 0.9,
    weights_N: Tensor | None = None,
    normaliser: float | Tensor | None = None,
    chunk_positions: int = 512,
    rank_weight: float = 0.0,
    router: Router | None = None,
) -> LossParts:
    """Cross-entropy and distillation at N positions; gradients flow to the hidden states and to the head's tensors.

    `labels_N` are those that the records speak of: `sampled_tail` of the kind `sampled` takes their log p for theirs.
    `records` None, or neither weight of the teacher's nor a router, trains on labels only. `weights_N` weighs
    positions; one of weight 0 is skipped before the product, whatever its label and record hold. `normaliser` is the
    number of positions of the whole effective batch; by default the sum of the weights given here. Logits are float32
    and at most [chunk_positions, V]; under autocast, or with half-precision hidden states and weights, products take
    half-precision factors.

    `rank_weight` weighs the likelihood of the teacher's order at τ = 1 (ranking.py); `router` gives each position its
    weights of the three parts (routing.py), None all ones.

    Raises ValueError for a temperature outside [1, 4], shapes or vocabularies that do not match, an unknown objective,
    `sampled_tail` on records without tail draws, and the order of `sampled` records.
    """
    if records is None or (kd_weight == 0 and rank_weight == 0 and router is None):
        records, kd_weight, rank_weight, router = None, 0.0, 0.0, None
    elif isinstance(records, Records):
        records = RecordTensors.from_records(records, hidden_ND.device)
    if kd_weight == 0:  # the cheapest that leaves no gradient
        objective, temperature = "bucket", 1.0
    goal = Goal(objective, temperature, ce_weight, kd_weight, rank_weight)
    _check(hidden_ND, head, labels_N, weights_N, records, goal, chunk_positions)
    all_kept = weights_N is None
    weights_N = hidden_ND.new_ones(len(hidden_ND), dtype=torch.float32) if weights_N is None else weights_N.float()
    target = _target(records, labels_N, weights_N, goal, router)
    inputs = LossInputs(labels_N, weights_N.detach(), target, goal, chunk_positions, router)

    through = _through_head if all_kept else _kept_through_head
    total, scores = through(hidden_ND, head, inputs)
    if normaliser is None:
        normaliser = weights_N.sum().clamp_min(torch.finfo(torch.float32).tiny)
    return LossParts(
        loss=total / normaliser,
        ce_N=scores.ce_n,
        kd_N=None if kd_weight == 0 else scores.kd_n,
        agreement_N=None if records is None else scores.agreement_n,
        effective_draws_N=target.effective_draws().where(weights_N != 0, 0.0) if objective == "sampled_tail" else None,
        rank_N=scores.rank_n,
        signals_N6=scores.signals_n6,
        routes_N3=scores.routes_n3,
    )


def _target(
    records: RecordTensors | None, labels_N: Tensor, weights_N: Tensor, goal: Goal, router: Router | None
) -> SoftTarget:
    """What the student is to match, with as much of the teacher in it as the goal and the router need."""
    if records is None:
        return SoftTarget.nothing(weights_N)
    with_order, with_facts = goal.rank_weight != 0, router is not None
    return SoftTarget.of(records, labels_N, goal.temperature, goal.objective, with_order, with_facts)


def _through_head(hidden_ND: Tensor, head: Head, inputs: LossInputs) -> tuple[Tensor, Scores]:
    """The summed loss, and the scores of all positions."""
    leaves = (hidden_ND, head.weight_VD, head.bias_V)
    wanted = tuple(torch.is_grad_enabled() and part is not None and part.requires_grad for part in leaves)
    total, *parts = HeadLoss.apply(*leaves, head, inputs, wanted)  # type: ignore[no-untyped-call]
    return total, Scores(*parts)


def _kept_through_head(hidden_ND: Tensor, head: Head, inputs: LossInputs) -> tuple[Tensor, Scores]:
    """The same where weights are given: positions of weight zero never reach the head. (It waits for the device.)"""
    kept_n = inputs.weights_N.nonzero()[:, 0]
    everything = inputs.blank_scores(len(hidden_ND))
    if len(kept_n) < len(hidden_ND):
        hidden_ND, inputs = hidden_ND[kept_n], inputs.rows(kept_n)
    total, scores = _through_head(hidden_ND, head, inputs)
    everything.put(kept_n, scores)
    return total, everything


def _check(
    hidden_ND: Tensor,
    head: Head,
    labels_N: Tensor,
    weights_N: Tensor | None,
    records: RecordTensors | None,
    goal: Goal,
    chunk_positions: int,
) -> None:
    """Refuse what cannot be meant; values (a label out of range, say) are the data's to check, not of every step."""
    if goal.objective not in get_args(Objective):
        raise ValueError(f"distillation_loss: objective must be one of {get_args(Objective)}, found {goal.objective!r}")
    if hidden_ND.dim() != 2:
        raise ValueError(
            f"distillation_loss: hidden_ND must be [N, D], found {tuple(hidden_ND.shape)}; flatten [B, T, D]"
        )
    if chunk_positions < 1:
        raise ValueError(f"distillation_loss: chunk_positions must be at least 1, found {chunk_positions}")
    for name, given in (("labels_N", labels_N), ("weights_N", weights_N)):
        if given is not None and given.shape != hidden_ND.shape[:1]:
            raise ValueError(
                f"distillation_loss: {name} must have shape ({len(hidden_ND)},), one for each hidden state, "
                f"found {tuple(given.shape)}"
            )
    if records is None:
        return
    if records.layout.kind == "sampled" and (goal.objective not in SAMPLED_OBJECTIVES or goal.rank_weight):
        raise ValueError(
            f"distillation_loss: records of the kind sampled estimate the whole KL and nothing else; objective must be "
            f"one of {SAMPLED_OBJECTIVES} and rank_weight 0, found {goal.objective!r} and {goal.rank_weight:g}"
        )
    if len(records) != len(hidden_ND):
        raise ValueError(f"distillation_loss: expected {len(hidden_ND):,} records, found {len(records):,}")
    vocab_size = hidden_ND.shape[1] if head.vocab_size is None else head.vocab_size
    if records.vocab_size != vocab_size:
        raise ValueError(
            f"distillation_loss: the records are over {records.vocab_size:,} ids and the student's head over "
            f"{vocab_size:,}; give the head num_effective={records.vocab_size}, and the student the teacher's tokenizer"
        )
