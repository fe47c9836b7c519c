"""How good a model is on held-out text: against the labels, and against the teacher.

Everything is a mean over scored positions, at temperature 1, in nats. Shapes: **n** positions, **V** vocabulary.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipeline.cache import TeacherCache
from pipeline.console import warn_once
from pipeline.data.sequences import VALIDATION
from pipeline.distill.batching.batches import Batch, load_batch
from pipeline.distill.batching.lessons import spread
from pipeline.distill.guards.perplexity import CAP_NATS, perplexity_of
from pipeline.distill.validation import score_against_cache
from pipeline.errors import IncompleteInputError, MachineError, NumericsError
from pipeline.evaluation.memory import Card, MemoryMeter, card_of
from pipeline.evaluation.summary import EvalData, Measures, MemoryKind
from pipeline.models import CausalModel
from pipeline.models.device import peak_memory_bytes
from pipeline.models.memory import is_out_of_memory

CHUNK_POSITIONS = 512


def held_out_indices(cache: TeacherCache, max_sequences: int | None = None) -> np.ndarray:
    """Validation sequences of the sealed shards, evenly spaced; IncompleteInputError where there are none."""
    spans = [span for span in cache.sealed if span.split == VALIDATION]
    if not spans:
        raise IncompleteInputError(
            f"{cache.folders[0]}: no validation shard is sealed here. Run `sad-pipeline cache-teacher` to the end, or "
            "name the folder that has them in cache.roots."
        )
    return spread(np.concatenate([np.arange(span.first, span.stop) for span in spans]), max_sequences)


def data_of(cache: TeacherCache, indices: np.ndarray) -> EvalData:
    """How much text those sequences are."""
    sequences = cache.sequences
    return EvalData(len(indices), int(sequences.scored_counts[indices].sum()), int(sequences.num_bytes[indices].sum()))


@torch.no_grad()
def measure_model(
    model: CausalModel,
    cache: TeacherCache,
    indices: np.ndarray,
    batch_size: int,
    teacher: CausalModel | None = None,
    chunk_positions: int = CHUNK_POSITIONS,
    card: Card | None = None,
) -> Measures:
    """Measure a model on the cached sequences `indices`, all of them sealed.

    The KL to the teacher from the cache is the `bucket` value: head ids one by one, the tail as one outcome, never
    above the full KL. With a `teacher` at hand the full KL is taken beside it. Agreement is with the teacher's
    likeliest id as the cache holds it (of `sampled` records the one drawn most often): ids within one step of its
    rounding tie there, lowest id first. Speed and memory on a card are those of the model's own forward passes through
    its output matrix; speed leaves out the first batch where there are several. `card` is the account of the card that
    the model is on.
    """
    model.model.eval()
    card = card or card_of(model.device)
    meter = MemoryMeter(model.model, card) if card else None

    def add(sums: _Sums, part: np.ndarray) -> None:
        _add_batch(sums, part, model, cache, teacher, chunk_positions, meter)

    sums = _summed(indices, batch_size, add)
    num_scored = max(1, sums.num_scored)
    return _measures(
        data_of(cache, indices),
        sums.ce_nats,
        kl_bucket_nats=sums.kl_nats / num_scored,
        kl_exact_nats=None if teacher is None else sums.exact_nats / num_scored,
        top1_agreement=sums.agreeing / num_scored,
        tokens_per_second=_rate(sums.seconds),
        peak_memory_bytes=meter.peak_bytes if meter else peak_memory_bytes(model.device),
        memory_kind="gpu" if meter else "process",
    )


def teacher_measures(cache: TeacherCache, indices: np.ndarray, batch_size: int = 16) -> Measures:
    """The teacher's own figures, from its cached log-probabilities of the labels; no model is run."""
    ce_nats = 0.0
    for part in _batches(indices, batch_size):
        sequences, records = cache.read(part)
        ce_nats -= float(records.label_logprobs_T[sequences.loss_mask.reshape(-1)].sum(dtype=np.float64))
    return _measures(data_of(cache, indices), ce_nats)


# ------------------------------------------------------------------ one batch


@dataclass(slots=True)
class _Sums:
    """What is added up over batches, over scored positions."""

    ce_nats: float = 0.0
    kl_nats: float = 0.0
    exact_nats: float = 0.0
    agreeing: float = 0.0
    num_scored: int = 0
    seconds: list[tuple[int, float]] = field(default_factory=list)  # of each batch: tokens, seconds


def _summed(indices: np.ndarray, batch_size: int, add: Callable[[_Sums, np.ndarray], None]) -> _Sums:
    """The sums over all batches; where a card's memory runs out all of them again, in batches of half the size.

    MachineError where one sequence is too much.
    """
    while True:
        sums = _Sums()
        try:
            for part in _batches(indices, batch_size):
                add(sums, part)
            return sums
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if batch_size == 1:
                raise MachineError(
                    "eval: the card's memory ran out with one sequence a pass. Leave eval.teacher out, which is in "
                    "memory beside each model, end other programs that use the card (nvidia-smi lists them), or set "
                    "student.device to cpu."
                ) from error
        # Here no frame of what failed holds its tensors any more.
        batch_size = -(-batch_size // 2)
        torch.cuda.empty_cache()
        warn_once(f"eval: the card's memory ran out; this model takes {batch_size} sequences a pass (eval.batch_size)")


def _add_batch(
    sums: _Sums,
    part: np.ndarray,
    model: CausalModel,
    cache: TeacherCache,
    teacher: CausalModel | None,
    chunk_positions: int,
    meter: MemoryMeter | None,
) -> None:
    """Measure one batch; nothing of it is held when the next one comes."""
    with meter.own_pass() if meter else contextlib.nullcontext():
        batch = load_batch(cache, part, model.device, with_records=True)
        started = time.perf_counter()
        hidden_ND = model.hidden(batch.input_ids_BT, batch.position_ids_BT).flatten(0, 1)
        parts = score_against_cache(hidden_ND, model.head, batch, chunk_positions)
        sums.ce_nats += float(parts.ce_N.double().sum())  # waits for the device
        sums.seconds.append((batch.labels_N.numel(), time.perf_counter() - started))
    assert parts.kd_N is not None
    assert parts.agreement_N is not None
    sums.kl_nats += float(parts.kd_N.double().sum())
    sums.agreeing += float((parts.agreement_N & (batch.weights_N != 0)).sum())
    sums.num_scored += batch.num_scored
    if teacher is not None:
        sums.exact_nats += _exact_kl_nats(hidden_ND, model, teacher, batch, chunk_positions)


def _exact_kl_nats(
    hidden_ND: Tensor, model: CausalModel, teacher: CausalModel, batch: Batch, chunk_positions: int
) -> float:
    """Σ_n Σ_v p(v)·( log p(v) − log q(v) ) over the scored positions of a batch, p the teacher's, q the model's."""
    ids_BT, positions_BT = batch.input_ids_BT.to(teacher.device), batch.position_ids_BT.to(teacher.device)
    teacher_hidden_ND = teacher.hidden(ids_BT, positions_BT).flatten(0, 1)
    total = 0.0
    for rows_n in torch.split(batch.weights_N.nonzero()[:, 0], chunk_positions):
        log_p_nV = teacher.head.logits_float32(teacher_hidden_ND[rows_n.to(teacher.device)]).log_softmax(dim=1)
        log_q_nV = model.head.logits_float32(hidden_ND[rows_n]).log_softmax(dim=1).to(teacher.device)
        total += float((log_p_nV.exp() * (log_p_nV - log_q_nV)).sum(dim=1).double().sum())
    return total


# ------------------------------------------------------------------ sums to figures


def _measures(
    data: EvalData,
    ce_nats: float,
    kl_bucket_nats: float | None = None,
    kl_exact_nats: float | None = None,
    top1_agreement: float | None = None,
    tokens_per_second: float | None = None,
    peak_memory_bytes: int | None = None,
    memory_kind: MemoryKind | None = None,
) -> Measures:
    """Figures of summed cross-entropy over that text, beside what was measured otherwise."""
    if data.num_positions == 0:
        raise IncompleteInputError(
            f"eval: expected scored positions, found none in the {data.num_sequences} sequences chosen. Raise "
            "eval.max_sequences."
        )
    mean_nats = ce_nats / data.num_positions
    if not math.isfinite(mean_nats):
        raise NumericsError(
            f"eval: the cross-entropy is {mean_nats}, which is no figure to report. The model's logits are not finite: "
            "its training diverged, or its dtype overflows. Leave it out of eval.baselines, or, if it is the student, "
            "train again with a lower train.learning_rate."
        )
    if mean_nats > CAP_NATS:
        warn_once(f"a cross-entropy of {mean_nats:.1f} nats is reported as the perplexity exp({CAP_NATS:.0f}), its cap")
    return Measures(
        cross_entropy_nats=mean_nats,
        perplexity=perplexity_of(mean_nats),
        perplexity_capped=mean_nats > CAP_NATS,
        bits_per_byte=ce_nats / (math.log(2) * data.num_bytes) if data.num_bytes else None,
        kl_bucket_nats=kl_bucket_nats,
        kl_exact_nats=kl_exact_nats,
        top1_agreement=top1_agreement,
        tokens_per_second=tokens_per_second,
        peak_memory_bytes=peak_memory_bytes,
        memory_kind=memory_kind,
    )


def _batches(indices: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    return (indices[start : start + batch_size] for start in range(0, len(indices), batch_size))


def _rate(timed: list[tuple[int, float]]) -> float | None:
    """Tokens a second; the first batch pays for warming up and is left out where there are others."""
    counted = timed[1:] or timed
    seconds = sum(duration for _, duration in counted)
    return sum(tokens for tokens, _ in counted) / seconds if seconds else None
