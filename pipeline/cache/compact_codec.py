"""Records of the kind `compact` <-> the arrays a shard keeps of them: those of `byte_codec.py`, without the padding.

    ids, values   each plane holds the real entries of all positions one after another, zeros behind them
    columns       how many entries each position has [n], a byte each; then as in byte_codec.py

A position outside the loss mask has none, and reads back as id 0 alone. Letters: **n** positions, **K** the largest
head, **P** planes of bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.byte_codec import ByteCodec
from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import PADDING_ID, Records
from pipeline.cache.schema import Arrays, ArraySchema

_OF_THE_HEAD = ("ids", "values")


@dataclass(frozen=True, slots=True)
class CompactCodec:
    """A ByteCodec whose head is cut to what is there."""

    layout: RecordLayout
    sequence_length: int

    @property
    def _padded(self) -> ByteCodec:
        return ByteCodec(self.layout, self.sequence_length)

    @property
    def chunk_sequences(self) -> int:
        """Sequences that are encoded and read together."""
        return self._padded.chunk_sequences

    @property
    def _positions(self) -> int:
        return self.chunk_sequences * self.sequence_length

    def schema(self, num_sequences: int) -> tuple[ArraySchema, ...]:
        """The arrays of a shard of so many sequences."""
        return tuple(self._with_counts(array) for array in self._padded.schema(num_sequences))

    def encode(self, records: Records, loss_mask_ST: NDArray[np.bool_]) -> Arrays:
        """Arrays of S sequences, S·T records; NumericsError where a scored one holds NaN or an infinity."""
        padded = self._padded.encode(records, loss_mask_ST)
        chunks = len(padded["columns"])
        counts_T = np.zeros(chunks * self._positions, np.uint8)
        counts_T[: len(records)] = (records.ids_TK != PADDING_ID).sum(axis=1) * loss_mask_ST.reshape(-1)
        counts = counts_T.reshape(chunks, self._positions)
        heads = {name: np.zeros_like(padded[name]) for name in _OF_THE_HEAD}
        for name, chunk, present_nK in self._heads(counts):
            planes_PX = heads[name][chunk].reshape(-1, present_nK.size)
            entries_PX = padded[name][chunk].reshape(-1, *present_nK.shape)[:, present_nK]
            planes_PX[:, : entries_PX.shape[1]] = entries_PX
        return {**heads, "columns": np.concatenate([counts, padded["columns"]], axis=1)}

    def decode(self, arrays: Arrays) -> Records:
        """Records of all positions of the arrays, those that fill up the last chunk too; ValueError for nonsense."""
        counts, columns = np.split(arrays["columns"], [self._positions], axis=1)
        if counts.size and int(counts.max()) > self.layout.head_size:
            raise ValueError(f"a head of {int(counts.max())} ids, where at most {self.layout.head_size} are kept")
        padded = {name: np.zeros_like(arrays[name]) for name in _OF_THE_HEAD}
        for name, chunk, present_nK in self._heads(counts):
            entries_PX, rest_PX = np.split(arrays[name][chunk].reshape(-1, present_nK.size), [present_nK.sum()], axis=1)
            if rest_PX.any():
                raise ValueError(
                    f"array {name!r}: there are bytes behind the {entries_PX.shape[1]:,} entries of a chunk"
                )
            padded[name][chunk].reshape(-1, *present_nK.shape)[:, present_nK] = entries_PX
        records = self._padded.decode({**padded, "columns": columns})
        missing_TK = ~_present(np.maximum(counts.reshape(-1), 1), self.layout.head_size)
        return replace(
            records,
            ids_TK=np.where(missing_TK, np.uint32(PADDING_ID), records.ids_TK),
            logprobs_TK=np.where(missing_TK, np.float32(-np.inf), records.logprobs_TK),
        )

    def _heads(self, counts: NDArray[np.uint8]) -> Iterator[tuple[str, int, NDArray[np.bool_]]]:
        """Each array of the head and each chunk, with which of its entries are real."""
        for chunk, counts_n in enumerate(counts):
            present_nK = _present(counts_n, self.layout.head_size)
            for name in _OF_THE_HEAD:
                yield name, chunk, present_nK

    def _with_counts(self, array: ArraySchema) -> ArraySchema:
        if array.name in _OF_THE_HEAD:
            return array
        return replace(array, shape=(array.shape[0], array.shape[1] + self._positions))


def _present(counts_n: NDArray[np.integer], head_size: int) -> NDArray[np.bool_]:
    present_nK: NDArray[np.bool_] = np.arange(head_size) < counts_n[:, None]
    return present_nK
