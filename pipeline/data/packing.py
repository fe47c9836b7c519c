"""Packing: documents into rows of T+1 ids.

The documents of a split form one stream of ids that is cut into rows with stride T: the last id of a row is the first
of the next, so every id but the first is the label of exactly one position. With `one_document` each document is a
stream of its own, for models that cannot keep two documents of a row apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.documents import TokenizedDocument

Mode = Literal["packed", "one_document"]
PACKING_VERSION = 4
"""2: long texts are encoded in pieces, and control tokens that a text spells as the text they are. 3: data.max_tokens
cuts the last text, few and huge documents are cut in two, and chats are read that were dropped, or rendered with the
date of the day. 4: fields that are null in a chat of JSON lines are left out, as those of a table were."""
REPEATABLE_VERSIONS = (2, 3, 4)  # packed the same today, but for what 3 and 4 name: then the digest of the plan tells
_BLOCK_ROWS = 1024


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows of T+1 ids; the arrays are those of Sequences."""

    input_ids: NDArray[np.uint32]  # [S, T+1]
    loss_mask: NDArray[np.bool_]  # [S, T]
    document_starts: NDArray[np.bool_]  # [S, T+1]
    num_bytes: NDArray[np.int64]  # [S]

    @classmethod
    def allocate(cls, num_rows: int, sequence_length: int) -> PackedRows:
        """Rows to be written: ids undefined, no label counts."""
        width = sequence_length + 1
        return cls(
            np.empty((num_rows, width), np.uint32),
            np.zeros((num_rows, sequence_length), np.bool_),
            np.zeros((num_rows, width), np.bool_),
            np.zeros(num_rows, np.int64),
        )

    def part(self, first: int, last: int) -> PackedRows:
        """Rows `first` to `last` - 1, sharing memory."""
        rows = slice(first, last)
        return PackedRows(self.input_ids[rows], self.loss_mask[rows], self.document_starts[rows], self.num_bytes[rows])


def pack(
    splits: Sequence[list[TokenizedDocument]], sequence_length: int, mode: Mode, end_of_text_id: int
) -> tuple[PackedRows, list[int], int]:
    """Lay the documents of each split end to end and cut them into rows of `sequence_length` + 1 ids.

    A label counts where it belongs to the same document as the id before it and its document scores it. What is left
    of a last row is filled with `end_of_text_id`, masked, as a document of its own. Returns the rows, one split after
    the other; how many each split has; and how many ids fill last rows. The lists are emptied on the way, so that
    nothing is in memory twice.
    """
    counts = [_count_rows(documents, sequence_length, mode) for documents in splits]
    rows = PackedRows.allocate(sum(map(sum, counts)), sequence_length)
    first = num_padding = 0
    for documents, rows_of_streams in zip(splits, counts, strict=True):
        documents.reverse()
        for num_rows in rows_of_streams:
            stream = _Stream(rows.part(first, first + num_rows), end_of_text_id)
            while documents:
                stream.append(documents.pop())
                if mode == "one_document":
                    break
            num_padding += stream.finish()
            first += num_rows
    return rows, [sum(rows_of_streams) for rows_of_streams in counts], num_padding


def _count_rows(documents: list[TokenizedDocument], sequence_length: int, mode: Mode) -> list[int]:
    """How many rows each stream of a split has."""
    lengths = [len(document.ids) for document in documents]
    streams = lengths if mode == "one_document" else [sum(lengths)]
    return [-(-max(num_ids - 1, 0) // sequence_length) for num_ids in streams]


class _Stream:
    """One line of ids on its way into rows: id p of the line lies at column p mod T of row p div T.

    Where that column is 0 it is also the last id of the row before, which `finish` fills in.
    """

    def __init__(self, rows: PackedRows, end_of_text_id: int) -> None:
        self._rows, self._end_of_text_id = rows, end_of_text_id
        self._num_rows, self._length = (int(size) for size in rows.loss_mask.shape)
        self._place = 0  # of the next id
        self._last_id = end_of_text_id

    def append(self, document: TokenizedDocument) -> None:
        """Lay one document behind those before it."""
        if self._num_rows:
            self._write(document.ids)
            self._mark_start()
            self._count_labels(document)
        self._last_id = int(document.ids[-1])
        self._place += len(document.ids)

    def finish(self) -> int:
        """Fill the last row, and every last column; how many ids were filled in."""
        size = self._num_rows * self._length + 1
        if self._num_rows == 0:
            return 0
        ids, starts = self._rows.input_ids, self._rows.document_starts
        num_padding = int(size - self._place)
        if num_padding:
            self._write(np.full(num_padding, self._end_of_text_id, np.uint32))
            self._mark_start()
        ids[:-1, -1] = ids[1:, 0]
        ids[-1, -1] = self._end_of_text_id if num_padding else self._last_id
        starts[:, 0] = True
        return num_padding

    def _write(self, ids: NDArray[np.uint32]) -> None:
        """The ids, all columns but the last: what a row begun still takes, whole rows, and the beginning of one."""
        body = self._rows.input_ids[:, :-1]
        row, column = divmod(self._place, self._length)
        while len(ids) and row < self._num_rows:
            whole = 0 if column else len(ids) // self._length
            if whole:
                whole = min(whole, self._num_rows - row)
                count = whole * self._length
                body[row : row + whole] = ids[:count].reshape(whole, self._length)
            else:
                count = min(self._length - column, len(ids))
                body[row, column : column + count] = ids[:count]
            row, column = divmod(row * self._length + column + count, self._length)
            ids = ids[count:]

    def _mark_start(self) -> None:
        """A document begins at the next place, wherever that place is in a row."""
        starts, (row, column) = self._rows.document_starts, divmod(self._place, self._length)
        if row < self._num_rows:
            starts[row, column] = True
        if column == 0 and 0 < row <= self._num_rows:
            starts[row - 1, -1] = True

    def _count_labels(self, document: TokenizedDocument) -> None:
        """Every id but the first is a label, at the position before it."""
        scored, num_labels = document.scored[1:], len(document.ids) - 1
        if num_labels == 0:
            return
        self._rows.loss_mask.reshape(-1)[self._place : self._place + num_labels] = scored
        num_bytes, first = document.num_bytes[1:], 0  # a block at a time: summing holds eight bytes a label
        while first < num_labels:
            row, column = divmod(self._place + first, self._length)
            last = min(num_labels, first + _BLOCK_ROWS * self._length - column)
            begins = np.maximum(np.arange(-column, last - first, self._length), 0)  # of each row, among the labels
            sums = np.add.reduceat(num_bytes[first:last] * scored[first:last], begins, dtype=np.int64)
            self._rows.num_bytes[row : row + len(sums)] += sums
            first = last
