"""Which codec turns the records of a cache into the arrays of its shards, and how records are cut for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.byte_codec import ByteCodec
from pipeline.cache.codec_v1 import CodecV1
from pipeline.cache.compact_codec import CompactCodec
from pipeline.cache.layout import RecordLayout
from pipeline.cache.plan import Plan
from pipeline.cache.records import Records
from pipeline.cache.sampled_codec import SampledCodec
from pipeline.cache.schema import Arrays, ArraySchema, Facts
from pipeline.cache.settings import Kind


class RecordCodec(Protocol):
    """One format of the arrays of a shard."""

    @property
    def chunk_sequences(self) -> int:
        """Sequences that are encoded and read together."""

    def schema(self, num_sequences: int) -> tuple[ArraySchema, ...]:
        """The arrays of a shard of so many sequences."""

    def encode(self, records: Records, loss_mask_ST: NDArray[np.bool_]) -> Arrays:
        """Arrays of S sequences, S·T records; NumericsError where a scored one holds NaN or an infinity."""

    def decode(self, arrays: Arrays, out: Records | None = None) -> Records:
        """Records of all positions of the arrays, those that fill up the last chunk too; ValueError for nonsense.

        They are put into `out` where it is given, which has room for as many.
        """

    def facts(self, columns: NDArray[Any]) -> Facts:
        """Label log p and entropy of the same positions, from rows of the array `columns` alone."""


MaskedRecords = tuple[Records, NDArray[np.bool_]]
"""Records of whole sequences, with their loss mask [S, T]"""


def codec_of(plan: Plan) -> RecordCodec:
    """The codec of a cache, by the format of its plan."""
    return make_codec(plan.layout, plan.sequence_length, plan.format)


def make_codec(layout: RecordLayout, sequence_length: int, format_version: int) -> RecordCodec:
    """The codec of records of one layout, in sequences of one length."""
    if format_version == 1:
        return CodecV1(layout, sequence_length)
    codecs: dict[Kind, Callable[[RecordLayout, int], RecordCodec]] = {
        "topk": ByteCodec,
        "compact": CompactCodec,
        "sampled": SampledCodec,
    }
    return codecs[layout.kind](layout, sequence_length)


def whole_chunks(parts: Iterable[MaskedRecords], codec: RecordCodec) -> Iterator[MaskedRecords]:
    """The same records and masks, cut anew so that all but the last part hold whole chunks."""
    waiting: list[MaskedRecords] = []
    for part in parts:
        waiting.append(part)
        count = sum(len(mask) for _, mask in waiting)
        if whole := count - count % codec.chunk_sequences:
            records, mask_ST = _joined(waiting)
            cut = whole * mask_ST.shape[1]
            yield records.rows(slice(0, cut)), mask_ST[:whole]
            waiting = [(records.rows(slice(cut, None)), mask_ST[whole:])] if count > whole else []
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[MaskedRecords]) -> MaskedRecords:
    if len(parts) == 1:
        return parts[0]
    return Records.concatenate([records for records, _ in parts]), np.concatenate([mask for _, mask in parts])
