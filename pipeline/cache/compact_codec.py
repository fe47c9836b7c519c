"""Records of the kind `compact` <-> the arrays a shard keeps of them: those of `byte_codec.py`, without the padding.

    ids, values   each plane holds the real entries of all positions one after another, zeros behind them
    columns       how many entries each position has [n], a byte each; then as in byte_codec.py

A position outside the loss mask has none, and reads back as id 0 alone. Letters: **n** positions, **K** the largest
head, **P** planes of bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.byte_codec import ByteCodec
from pipeline.cache.chunked_codec import ChunkedCodec
from pipeline.cache.records import PADDING_ID, Records
from pipeline.cache.schema import Arrays, ArraySchema, Facts

_OF_THE_HEAD = ("ids", "values")


@dataclass(frozen=True, slots=True)
class CompactCodec(ChunkedCodec):
    """A ByteCodec whose head is cut to what is there."""

    @property
    def _padded(self) -> ByteCodec:
        return ByteCodec(self.layout, self.sequence_length)

    def schema(self, num_sequences: int) -> tuple[ArraySchema, ...]:
        """The arrays of a shard of so many sequences."""
        return tuple(self._with_counts(array) for array in self._padded.schema(num_sequences))

    def encode(self, records: Records, loss_mask_ST: NDArray[np.bool_]) -> Arrays:
        """Arrays of S sequences, S·T records; NumericsError where a scored one holds NaN or an infinity."""
        padded = self._padded.encode(records, loss_mask_ST)
        counts_N = (records.rows(loss_mask_ST.reshape(-1)).ids_TK != PADDING_ID).sum(axis=1).astype(np.uint8)
        counts = self.placed(counts_N[None, :, None], loss_mask_ST)
        heads = {name: np.zeros_like(padded[name]) for name in _OF_THE_HEAD}
        for chunk, counts_n in enumerate(counts):
            present_nK = _present(counts_n, self.layout.head_size)
            for name, rows in heads.items():
                entries_PX = padded[name][chunk].reshape(-1, *present_nK.shape)[:, present_nK]
                rows[chunk].reshape(-1, present_nK.size)[:, : entries_PX.shape[1]] = entries_PX
        return {**heads, "columns": np.concatenate([counts, padded["columns"]], axis=1)}

    def decode_chunk(self, rows: Arrays, out: Records) -> None:
        """Put the records of one chunk into `out`; id 0 alone outside the loss mask."""
        head_size = self.layout.head_size
        counts_n, columns = np.split(rows["columns"], [self.chunk_positions])
        if int(counts_n.max()) > head_size:
            raise ValueError(f"a head of {int(counts_n.max())} ids, where at most {head_size} are kept")
        present_nK = _present(counts_n, head_size)
        heads = {name: _spread_out(name, rows[name], present_nK) for name in _OF_THE_HEAD}
        self._padded.decode_chunk({**heads, "columns": columns}, out)
        missing_nK = ~_present(np.maximum(counts_n, 1), head_size)
        out.ids_TK[missing_nK] = PADDING_ID
        out.logprobs_TK[missing_nK] = -np.inf

    def facts_of_chunk(self, columns: NDArray[np.uint8]) -> Facts:
        """Label log p and entropy of one chunk, which lie where they do without the counts: at the end."""
        return self._padded.facts_of_chunk(columns)

    def _with_counts(self, array: ArraySchema) -> ArraySchema:
        if array.name in _OF_THE_HEAD:
            return array
        return replace(array, shape=(array.shape[0], array.shape[1] + self.chunk_positions))


def _present(counts_n: NDArray[np.integer], head_size: int) -> NDArray[np.bool_]:
    present_nK: NDArray[np.bool_] = np.arange(head_size) < counts_n[:, None]
    return present_nK


def _spread_out(name: str, row: NDArray[np.uint8], present_nK: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The entries of each plane at their places, zeros between them; ValueError where more is left."""
    entries_PX, rest_PX = np.split(row.reshape(-1, present_nK.size), [present_nK.sum()], axis=1)
    if rest_PX.any():
        raise ValueError(f"array {name!r}: there are bytes behind the {entries_PX.shape[1]:,} entries of a chunk")
    padded = np.zeros_like(row)
    padded.reshape(-1, *present_nK.shape)[:, present_nK] = entries_PX
    return padded
