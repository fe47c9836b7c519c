"""What the codecs of a shard share: positions are cut into chunks, and each chunk is one row of bytes of each array.

A chunk holds whole sequences, as many as make about 1,024 positions; the last one is filled up. Positions outside the
loss mask are zeros in every array.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import Records, check_records
from pipeline.cache.schema import Arrays, Facts

_CHUNK_POSITIONS = 1024  # fewer a chunk pack worse (5 % at 256), more cost a random read more


@dataclass(frozen=True, slots=True)
class ChunkedCodec(ABC):
    """Records of one layout <-> rows of bytes, in sequences of one length."""

    layout: RecordLayout
    sequence_length: int

    @property
    def chunk_sequences(self) -> int:
        """Sequences that are encoded and read together."""
        return max(1, _CHUNK_POSITIONS // self.sequence_length)

    @property
    def chunk_positions(self) -> int:
        """Positions of a chunk."""
        return self.chunk_sequences * self.sequence_length

    def num_chunks(self, num_sequences: int) -> int:
        """Chunks that hold so many sequences."""
        return -(-num_sequences // self.chunk_sequences)

    def scored(self, records: Records, loss_mask_ST: NDArray[np.bool_]) -> Records:
        """The records inside the loss mask; NumericsError where one holds NaN or an infinity."""
        num_positions = loss_mask_ST.size
        if len(records) != num_positions or loss_mask_ST.shape[1] != self.sequence_length:
            raise ValueError(f"expected {num_positions} records for mask {loss_mask_ST.shape}, found {len(records)}")
        scored = records.rows(loss_mask_ST.reshape(-1))
        check_records(scored)
        return scored

    def placed(self, planes_PnX: NDArray[np.uint8], loss_mask_ST: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Scored rows at their positions, zeros elsewhere: [chunks, P·positions·X], a row of bytes for each chunk."""
        num_planes, _, width = planes_PnX.shape
        chunks = self.num_chunks(len(loss_mask_ST))
        everywhere = np.zeros((num_planes, chunks * self.chunk_positions, width), np.uint8)
        everywhere[:, : loss_mask_ST.size][:, loss_mask_ST.reshape(-1)] = planes_PnX
        by_chunk = everywhere.reshape(num_planes, chunks, -1).swapaxes(0, 1)
        return np.ascontiguousarray(by_chunk).reshape(chunks, -1)

    def decode(self, arrays: Arrays, out: Records | None = None) -> Records:
        """Records of all positions of the arrays, those that fill up the last chunk too; ValueError for nonsense.

        They are put into `out` where it is given, which has room for as many.
        """
        [num_chunks] = {len(array) for array in arrays.values()}
        size = self.chunk_positions
        records = Records.empty(self.layout, num_chunks * size) if out is None else out
        for chunk in range(num_chunks):
            rows = {name: rows[chunk] for name, rows in arrays.items()}
            self.decode_chunk(rows, records.rows(slice(chunk * size, (chunk + 1) * size)))
        return records

    def facts(self, columns: NDArray[np.uint8]) -> Facts:
        """Label log p and entropy of all positions of rows of `columns`, without what else a record holds."""
        label_n, entropy_n = zip(*map(self.facts_of_chunk, columns), strict=True)
        return np.concatenate(label_n), np.concatenate(entropy_n)

    @abstractmethod
    def facts_of_chunk(self, columns: NDArray[np.uint8]) -> Facts:
        """Label log p and entropy of one chunk, from its row of `columns`."""

    @abstractmethod
    def decode_chunk(self, rows: Arrays, out: Records) -> None:
        """Put the records of one chunk, from its row of each array, into `out`."""
