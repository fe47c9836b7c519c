"""Records <-> the three byte arrays a shard keeps of them, a row of bytes for each chunk of n positions:

    ids      differences of the ascending head ids, in planes of bytes [P, n, K]
    values   codes of the head's log p, in planes [2, n, K]  (4 planes if lossless)
    columns  the draws' ids [P, n, M] and codes [1, n, M] in planes, then the fields as zigzag numbers [4, F, n]

P is as many bytes as an id needs. Codes and fields are the precision's (`precisions.py`). Positions outside the loss
mask read back as zeros. The kinds `compact` and `sampled` have codecs of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.chunked_codec import ChunkedCodec
from pipeline.cache.ids import id_bytes, ids_from_planes, ids_to_planes
from pipeline.cache.planes import from_planes, from_zigzag, narrow_from_planes, to_planes, zigzag
from pipeline.cache.precisions import PRECISIONS, Coded, Precision
from pipeline.cache.records import Records
from pipeline.cache.schema import Arrays, ArraySchema, Facts

_FIELD_BYTES = 4


@dataclass(frozen=True, slots=True)
class ByteCodec(ChunkedCodec):
    """Planes of bytes, packed by zstd."""

    @property
    def precision(self) -> Precision:
        """How finely numbers are stored."""
        return PRECISIONS[self.layout.precision]

    def schema(self, num_sequences: int) -> tuple[ArraySchema, ...]:
        """The arrays of a shard of so many sequences."""
        chunks, positions = self.num_chunks(num_sequences), self.chunk_positions
        widths = {name: positions * sum(parts) for name, parts in self._parts().items()}
        block_bytes = positions * max(self.layout.num_draws, 8)  # zstd's own would share one table among all columns
        return (
            ArraySchema("ids", "uint8", (chunks, widths["ids"]), "zstd"),
            ArraySchema("values", "uint8", (chunks, widths["values"]), "fast-zstd"),
            ArraySchema("columns", "uint8", (chunks, widths["columns"]), "blocks", block_bytes=block_bytes),
        )

    def encode(self, records: Records, loss_mask_ST: NDArray[np.bool_]) -> Arrays:
        """Arrays of S sequences, S·T records; NumericsError where a scored one holds NaN or an infinity."""
        scored = self.scored(records, loss_mask_ST).with_ascending_draws()
        coded, vocab_size = self.precision.encode(scored), self.layout.vocab_size
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
            name: np.concatenate([self.placed(planes, loss_mask_ST) for planes in part], axis=1)
            for name, part in parts.items()
        }

    def decode_chunk(self, rows: Arrays, out: Records) -> None:
        """Put the records of one chunk into `out`; zeros outside the loss mask."""
        layout, positions = self.layout, self.chunk_positions
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
        ids_from_planes(ids, layout.vocab_size, out.ids_TK)
        ids_from_planes(draw_ids.reshape(self._id_bytes, positions, draws), layout.vocab_size, out.draw_ids_TM)
        self.precision.decode(coded, out)

    def facts_of_chunk(self, columns: NDArray[np.uint8]) -> Facts:
        """Label log p and entropy of one chunk: the last two fields, at the end of its row."""
        shape = _FIELD_BYTES, self.precision.num_fields(self.layout), self.chunk_positions
        planes = columns[-math.prod(shape) :].reshape(shape)
        return self.precision.facts(from_zigzag(from_planes(planes[:, -2:])))

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
