"""Records <-> the three byte arrays a shard keeps of them, a row of bytes for each chunk of n positions:

    ids      differences of the ascending head ids, in planes of bytes [P, n, K]
    values   codes of the head's log p, in planes [2, n, K]  (4 planes if lossless)
    columns  the draws' ids [P, n, M] and codes [1, n, M] in planes, then the fields as zigzag numbers [4, F, n]

P is as many bytes as an id needs. Codes and fields are the precision's (`precisions.py`). A chunk holds whole
sequences, as many as make about 1,024 positions; the last one is filled up. Positions outside the loss mask are zeros
in all three, and read back as zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.codec_v1 import CodecV1
from pipeline.cache.plan import Plan
from pipeline.cache.planes import from_planes, from_zigzag, narrow_from_planes, to_planes, zigzag
from pipeline.cache.precisions import PRECISIONS, Coded, Precision
from pipeline.cache.records import RecordLayout, Records, check_records
from pipeline.cache.schema import Arrays, ArraySchema

_CHUNK_POSITIONS = 1024  # fewer pack worse (5 % at 256), more cost a random read more
_FIELD_BYTES = 4


class RecordCodec(Protocol):
    """One format of the arrays of a shard."""

    @property
    def chunk_sequences(self) -> int:
        """Sequences that are encoded and read together."""

    def schema(self, num_sequences: int) -> tuple[ArraySchema, ...]:
        """The arrays of a shard of so many sequences."""

    def encode(self, records: Records, loss_mask_ST: NDArray[np.bool_]) -> Arrays:
        """Arrays of S sequences, S·T records; NumericsError where a scored one holds NaN or an infinity."""

    def decode(self, arrays: Arrays) -> Records:
        """Records of all positions of the arrays, those that fill up the last chunk too; ValueError for nonsense."""


MaskedRecords = tuple[Records, NDArray[np.bool_]]
"""Records of whole sequences, with their loss mask [S, T]"""


def codec_of(plan: Plan) -> RecordCodec:
    """The codec of a cache, by the format of its plan."""
    return make_codec(plan.layout, plan.sequence_length, plan.format)


def make_codec(layout: RecordLayout, sequence_length: int, format_version: int) -> RecordCodec:
    """The codec of records of one layout, in sequences of one length."""
    return CodecV1(layout, sequence_length) if format_version == 1 else ByteCodec(layout, sequence_length)


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


@dataclass(frozen=True, slots=True)
class ByteCodec:
    """Planes of bytes, packed by zstd."""

    layout: RecordLayout
    sequence_length: int

    @property
    def chunk_sequences(self) -> int:
        """Sequences that are encoded and read together."""
        return max(1, _CHUNK_POSITIONS // self.sequence_length)

    @property
    def precision(self) -> Precision:
        """How finely numbers are stored."""
        return PRECISIONS[self.layout.precision]

    def schema(self, num_sequences: int) -> tuple[ArraySchema, ...]:
        """The arrays of a shard of so many sequences."""
        chunks, positions = -(-num_sequences // self.chunk_sequences), self._chunk_positions
        widths = {name: positions * sum(parts) for name, parts in self._parts().items()}
        block_bytes = positions * max(self.layout.num_draws, 8)  # zstd's own would share one table among all columns
        return (
            ArraySchema("ids", "uint8", (chunks, widths["ids"]), "zstd"),
            ArraySchema("values", "uint8", (chunks, widths["values"]), "fast-zstd"),
            ArraySchema("columns", "uint8", (chunks, widths["columns"]), "blocks", block_bytes=block_bytes),
        )

    def encode(self, records: Records, loss_mask_ST: NDArray[np.bool_]) -> Arrays:
        """Arrays of S sequences, S·T records; NumericsError where a scored one holds NaN or an infinity."""
        mask_T = loss_mask_ST.reshape(-1)
        if len(records) != len(mask_T) or loss_mask_ST.shape[1] != self.sequence_length:
            raise ValueError(f"expected {len(mask_T)} records for mask {loss_mask_ST.shape}, found {len(records)}")
        scored = records.rows(mask_T)
        check_records(scored)
        scored = scored.with_ascending_draws()
        coded = self.precision.encode(scored)
        chunks = -(-len(loss_mask_ST) // self.chunk_sequences)
        parts = {
            "ids": [self._placed(self._id_planes(scored.ids_TK), mask_T, chunks)],
            "values": [self._placed(to_planes(coded.codes_nK, self._code_bytes[0]), mask_T, chunks)],
            "columns": [
                self._placed(self._id_planes(scored.draw_ids_TM), mask_T, chunks),
                self._placed(to_planes(coded.draw_codes_nM, self._code_bytes[1]), mask_T, chunks),
                self._placed(self._field_planes(coded.fields_Fn), mask_T, chunks),
            ],
        }
        return {name: np.concatenate(part, axis=1) for name, part in parts.items()}

    def decode(self, arrays: Arrays) -> Records:
        """Records of all positions of the arrays, those that fill up the last chunk too; ValueError for nonsense."""
        chunks = range(len(arrays["ids"]))
        parts = [self._decode_chunk({name: array[chunk] for name, array in arrays.items()}) for chunk in chunks]
        return Records.concatenate(parts) if parts else Records.blank(self.layout, 0)

    def _decode_chunk(self, rows: Arrays) -> Records:
        layout, positions = self.layout, self._chunk_positions
        head, draws, fields = layout.head_size, layout.num_draws, self.precision.num_fields(layout)
        ids = rows["ids"].reshape(self._id_bytes, positions, head)
        codes = rows["values"].reshape(self._code_bytes[0], positions, head)
        cuts = np.cumsum([positions * part for part in self._parts()["columns"]])[:-1]
        draw_ids, draw_codes, field_planes = np.split(rows["columns"], cuts)
        coded = Coded(
            narrow_from_planes(codes),
            from_planes(draw_codes.reshape(self._code_bytes[1], positions, draws)),
            from_zigzag(from_planes(field_planes.reshape(_FIELD_BYTES, fields, positions))),
        )
        numbers = self.precision.decode(coded, layout)
        return Records(
            layout,
            self._ids(ids),
            numbers.logprobs_nK,
            numbers.tail_nR,
            self._ids(draw_ids.reshape(self._id_bytes, positions, draws)),
            numbers.draw_logprobs_nM,
            numbers.label_logprobs_n,
            numbers.entropies_n,
        )

    @property
    def _chunk_positions(self) -> int:
        return self.chunk_sequences * self.sequence_length

    @property
    def _id_bytes(self) -> int:
        return max(1, -(-(self.layout.vocab_size - 1).bit_length() // 8))

    @property
    def _code_bytes(self) -> tuple[int, int]:
        return self.precision.code_bytes

    def _parts(self) -> dict[str, list[int]]:
        """Bytes a position of each part of each array."""
        layout = self.layout
        return {
            "ids": [self._id_bytes * layout.head_size],
            "values": [self._code_bytes[0] * layout.head_size],
            "columns": [
                self._id_bytes * layout.num_draws,
                self._code_bytes[1] * layout.num_draws,
                _FIELD_BYTES * self.precision.num_fields(layout),
            ],
        }

    def _id_planes(self, ids_nX: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """Differences of ascending ids, in planes [P, n, X]."""
        return to_planes(np.diff(ids_nX, axis=1, prepend=np.uint32(0)), self._id_bytes)

    def _field_planes(self, fields_Fn: NDArray[np.int32]) -> NDArray[np.uint8]:
        """All first bytes of every field, all second ones, ...: planes [4·F, n, 1]."""
        return to_planes(zigzag(fields_Fn), _FIELD_BYTES).reshape(_FIELD_BYTES * len(fields_Fn), -1, 1)

    def _ids(self, planes: NDArray[np.uint8]) -> NDArray[np.uint32]:
        """The ids of differences; ValueError where one is outside the vocabulary."""
        differences_nX = narrow_from_planes(planes)
        # So few of so few bytes cannot overflow 32 bits; others in a bad file could.
        narrow = differences_nX.shape[1] << (8 * self._id_bytes) <= 2**32
        ids_nX = np.cumsum(differences_nX, axis=1, dtype=np.uint32 if narrow else np.uint64)
        if ids_nX.size and int(ids_nX[:, -1].max()) >= self.layout.vocab_size:
            raise ValueError(f"an id is {int(ids_nX.max())}, outside the vocabulary of {self.layout.vocab_size}")
        return ids_nX.astype(np.uint32, copy=False)

    def _placed(self, planes_PnX: NDArray[np.uint8], mask_T: NDArray[np.bool_], chunks: int) -> NDArray[np.uint8]:
        """Scored rows at their positions, zeros elsewhere; a row of bytes for each chunk."""
        num_planes, _, width = planes_PnX.shape
        placed = np.zeros((num_planes, chunks * self._chunk_positions, width), np.uint8)
        placed[:, : len(mask_T)][:, mask_T] = planes_PnX
        by_chunk = placed.reshape(num_planes, chunks, -1).swapaxes(0, 1)
        return np.ascontiguousarray(by_chunk).reshape(chunks, -1)
