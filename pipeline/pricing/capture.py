"""What a cached token costs: the teacher scores a few batches in memory, and their records are encoded."""

from __future__ import annotations

import dataclasses
import statistics
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.precisions import PRECISIONS
from pipeline.cache.records import Records
from pipeline.cache.schema import ArraySchema
from pipeline.cache.shard import packed_bytes
from pipeline.cache.writer import bytes_per_position
from pipeline.console import Progress
from pipeline.data.sequences import Sequences
from pipeline.models import Teacher

_LEAST_BATCHES, _MOST_BATCHES = 2, 8
_PACKED_IDS = 2**18  # packed together, as in sequences.shard
_ENOUGH_SECONDS = 30.0  # of scoring: then no further batch is begun


@dataclass(frozen=True, slots=True, eq=False)
class CaptureProbe:
    """A few batches as the teacher scored them, and what they took."""

    sequences: Sequences
    """the S that were scored"""
    records: Records
    """of their S·T positions"""
    seconds_per_position: float
    """scoring (median over batches) and encoding; masked positions count as positions"""
    bytes_by_precision: dict[str, float]
    """precision -> bytes a position of these records"""
    half_head_bytes: float | None
    """bytes a position with half the head, in the layout's own precision; None for a head of one id"""

    @property
    def bytes_per_position(self) -> float:
        """In the precision of the config."""
        return self.bytes_by_precision[self.records.layout.precision]


def probe_teacher(teacher: Teacher, sequences: Sequences, rows: NDArray[np.integer]) -> CaptureProbe:
    """Score batches spread evenly over the sequences numbered `rows`; nothing is written.

    The first batch runs twice, because a machine is slow before it is warm.
    """
    batches = _spread(rows, teacher.batch_size)
    teacher.score(sequences, batches[0])
    parts: list[Records] = []
    paces: list[float] = []
    with Progress("scoring a few batches", len(batches), "batches") as progress:
        for batch_B in batches:
            started = time.monotonic()
            parts.append(teacher.score(sequences, batch_B))
            paces.append((time.monotonic() - started) / (len(batch_B) * sequences.sequence_length))
            progress.advance(1)
            if len(parts) >= _LEAST_BATCHES and sum(paces) * len(parts[0]) > _ENOUGH_SECONDS:
                break
    scored = sequences.select(np.concatenate(batches[: len(parts)]))
    records = Records.concatenate(parts)
    started = time.monotonic()
    sizes = {records.layout.precision: bytes_per_position(records, scored.loss_mask)}
    encoding_seconds = (time.monotonic() - started) / len(records)
    for precision in PRECISIONS.keys() - sizes.keys():
        layout = dataclasses.replace(records.layout, precision=precision)
        sizes[precision] = bytes_per_position(dataclasses.replace(records, layout=layout), scored.loss_mask)
    half = _half_head(records)
    half_bytes = None if half is None else bytes_per_position(half, scored.loss_mask)
    return CaptureProbe(scored, records, statistics.median(paces) + encoding_seconds, sizes, half_bytes)


def sequence_bytes(sequences: Sequences) -> float:
    """What the ids of packed sequences take on disk, a position; their masks pack to next to nothing."""
    shape = (sequences.num_sequences, sequences.sequence_length + 1)
    schema = ArraySchema("input_ids", "uint32", shape, "bitshuffle", max(1, min(shape[0], _PACKED_IDS // shape[1])))
    return packed_bytes((schema,), {"input_ids": sequences.input_ids}) / sequences.loss_mask.size


def _spread(rows: NDArray[np.integer], batch_size: int) -> list[NDArray[np.integer]]:
    """Up to _MOST_BATCHES whole batches, evenly spaced over `rows`; one that is not whole where there are no others."""
    whole = max(1, len(rows) // batch_size)
    count = min(whole, _MOST_BATCHES)
    firsts = np.arange(count) * whole // count * batch_size
    return [rows[first : first + batch_size] for first in firsts]


def _half_head(records: Records) -> Records | None:
    """The likelier half of every head. What leaves it joins the tail's masses; the draws stay: of these, sizes alone
    are asked."""
    layout = records.layout
    half = layout.head_size // 2
    if not half or layout.num_draws == 0:
        return None
    order_TK = np.argsort(-records.logprobs_TK, axis=1, kind="stable")
    kept_TK, left_TK = np.sort(order_TK[:, :half], axis=1), order_TK[:, half:]
    left_logp_TK = np.take_along_axis(records.logprobs_TK, left_TK, axis=1)
    tail_TR = records.tail_TR.copy()
    for r, beta in enumerate(layout.betas):
        left_T = np.logaddexp.reduce(left_logp_TK * np.float32(beta), axis=1)
        tail_TR[:, r] = np.logaddexp(tail_TR[:, r], left_T)
    return dataclasses.replace(
        records,
        layout=dataclasses.replace(layout, head_size=half),
        ids_TK=np.take_along_axis(records.ids_TK, kept_TK, axis=1),
        logprobs_TK=np.take_along_axis(records.logprobs_TK, kept_TK, axis=1),
        tail_TR=tail_TR,
    )
