"""What a cached token costs: the teacher scores a few batches in memory, and their records are encoded."""

from __future__ import annotations

import dataclasses
import statistics
import time
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.layout import PrecisionName, RecordLayout
from pipeline.cache.records import Records
from pipeline.cache.sequence_file import ids_schema
from pipeline.cache.settings import DEFAULTS, Kind
from pipeline.cache.shard import packed_bytes
from pipeline.cache.writer import bytes_per_position
from pipeline.console import Progress
from pipeline.data.sequences import Sequences, SequenceSource
from pipeline.models import Teacher

_LEAST_BATCHES, _MOST_BATCHES = 2, 8
_FEW_POSITIONS = 1024  # scored once more for each other setting
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
    bytes_per_position: float
    """of these records as they are configured"""
    bytes_otherwise: dict[str, float]
    """`key: value` of another setting -> bytes a position with it"""


def probe_teacher(teacher: Teacher, sequences: SequenceSource, rows: NDArray[np.integer]) -> CaptureProbe:
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
    scored_rows = np.concatenate(batches[: len(parts)])
    scored = sequences.select(scored_rows)
    records = Records.concatenate(parts)
    started = time.monotonic()
    own_bytes = bytes_per_position(records, scored.loss_mask)
    encoding_seconds = (time.monotonic() - started) / len(records)
    num_few = min(len(scored_rows), max(1, _FEW_POSITIONS // sequences.sequence_length))
    few_B = scored_rows[np.arange(num_few) * len(scored_rows) // num_few]
    few_mask_BT = sequences.select(few_B).loss_mask
    sizes = {
        setting: bytes_per_position(dataclasses.replace(teacher, layout=layout).score(sequences, few_B), few_mask_BT)
        for setting, layout in ({"": teacher.layout} | other_layouts(teacher.layout)).items()
    }
    scale = own_bytes / sizes.pop("")  # the few may be fuller or emptier than all that were scored
    otherwise = {setting: scale * size for setting, size in sizes.items()}
    return CaptureProbe(scored, records, statistics.median(paces) + encoding_seconds, own_bytes, otherwise)


def other_layouts(layout: RecordLayout) -> dict[str, RecordLayout]:
    """`key: value` of a setting that a cache could have instead -> the layout it gives."""
    found: dict[str, RecordLayout] = {}
    for kind in get_args(Kind):
        if kind != layout.kind:
            sizes = {"head_size": 0, "head_mass": 0.0} | DEFAULTS[kind]
            found[f"cache.kind: {kind}"] = RecordLayout.for_vocabulary(layout.vocab_size, kind=kind, **sizes)
    if layout.kind == "sampled":
        return found
    for precision in get_args(PrecisionName):
        if precision != layout.precision:
            found[f"cache.precision: {precision}"] = dataclasses.replace(layout, precision=precision)
    if (half := layout.head_size // 2) and layout.head_size < layout.vocab_size:
        found[f"cache.head_size: {half}"] = dataclasses.replace(layout, head_size=half)
    return found


def sequence_bytes(sequences: Sequences) -> float:
    """What the ids of packed sequences take on disk, a position; their masks pack to next to nothing."""
    schema = ids_schema(sequences.num_sequences, sequences.sequence_length)
    return packed_bytes((schema,), {"input_ids": sequences.input_ids}) / sequences.loss_mask.size


def _spread(rows: NDArray[np.integer], batch_size: int) -> list[NDArray[np.integer]]:
    """Up to _MOST_BATCHES whole batches, evenly spaced over `rows`; one that is not whole where there are no others."""
    whole = max(1, len(rows) // batch_size)
    count = min(whole, _MOST_BATCHES)
    firsts = np.arange(count) * whole // count * batch_size
    return [rows[first : first + batch_size] for first in firsts]
