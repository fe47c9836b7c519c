"""Records <-> the three byte arrays a shard keeps of them, a row of bytes for each chunk of n positions:

    ids      differences of the ascending head ids, in planes of bytes [P, n, K]
    values   codes of the head's log p, in planes [2, n, K]  (4 planes if lossless)
    columns  the draws' ids [P, n, M] and codes [1, n, M] in planes, then the fields as zigzag numbers [4, F, n]

P is as many bytes as an id needs. Codes and fields are the precision's (`precisions.py`). A chunk holds whole
sequences, as many as make about 1,024 positions; the last one is filled up. Positions outside the loss mask are zeros
in all three, and read back as zeros. The kinds `compact` and `sampled` have codecs of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.ids import id_bytes, ids_from_planes, ids_to_planes, placed
from pipeline.cache.layout import RecordLayout
from pipeline.cache.planes import from_planes, from_zigzag, narrow_from_planes, to_planes, zigzag
from pipeline.cache.precisions import PRECISIONS, Coded, Precision
from pipeline.cache.records import Records, check_records
from pipeline.cache.schema import Arrays, ArraySchema

CHUNK_POSITIONS = 1024
"""Fewer a chunk pack worse (5 % at 256), more cost a random read more."""
_FIELD_BYTES = 4


@dataclass(frozen=True, slots=True)
class ByteCodec:
    """Planes of bytes, packed by zstd."""

    layout: RecordLayout
    sequence_length: int

    @property
    def chunk_sequences(self) -> int:
        """Sequences that are encoded and read together."""
        return max(1, CHUNK_POSITIONS // self.sequence_length)

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
        coded, vocab_size = self.precision.encode(scored), self.layout.vocab_size
        chunks = -(-len(loss_mask_ST) // self.chunk_sequences)
        parts = {
            "ids": [ids_to_planes(scored.filled_ids(), vocab_size)],
            "values": [to_planes(coded.codes_nK, self._code_bytes[0])],
            "columns": [
                ids_to_planes(scored.draw_ids_TM, vocab_size),
                to_planes(coded.draw_codes_nM, self._code_bytes[1]),
                self._field_planes(coded.fields_Fn),
            ],
        }
        return {
            name: np.concatenate([placed(planes, mask_T, chunks, self._chunk_positions) for planes in part], axis=1)
            for name, part in parts.items()
        }

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
            ids_from_planes(ids, layout.vocab_size),
            numbers.logprobs_nK,
            numbers.tail_nR,
            ids_from_planes(draw_ids.reshape(self._id_bytes, positions, draws), layout.vocab_size),
            numbers.draw_logprobs_nM,
            numbers.label_logprobs_n,
            numbers.entropies_n,
        )

    @property
    def _chunk_positions(self) -> int:
        return self.chunk_sequences * self.sequence_length

    @property
    def _id_bytes(self) -> int:
        return id_bytes(self.layout.vocab_size)

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

    def _field_planes(self, fields_Fn: NDArray[np.int32]) -> NDArray[np.uint8]:
        """All first bytes of every field, all second ones, ...: planes [4·F, n, 1]."""
        return to_planes(zigzag(fields_Fn), _FIELD_BYTES).reshape(_FIELD_BYTES * len(fields_Fn), -1, 1)
