"""Packing: documents into rows of T+1 ids.

The documents of a split form one stream of ids that is cut into rows with stride T: the last id of a row is the first
of the next, so every id but the first is the label of exactly one position. With `one_document` each document is a
stream of its own, for models that cannot keep two documents of a row apart.

Where texts begin with ids of their own (begin-of-text), every row does: models that have learned with them predict
badly what follows a row's edge without. The stride is then shorter by those k ids, whose labels do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.documents import TokenizedDocument

Mode = Literal["packed", "one_document"]
PACKING_VERSION = 6
STARTED_SINCE = 5
"""2: long texts are encoded in pieces, and control tokens that a text spells as the text they are. 3: data.max_tokens
cuts the last text, few and huge documents are cut in two, and chats are read that were dropped, or rendered with the
date of the day. 4: fields that are null in a chat of JSON lines are left out, as those of a table were. 5: every row
begins as texts do, where the tokenizer puts ids before them. 6: what ends an assistant's earlier turn counts, too,
where a template ends the whole text with more than that."""
REPEATABLE_VERSIONS = (2, 3, 4, 5, 6)  # packed as then, but for what 3, 4 and 6 name: there the plan's digest tells
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
    splits: Sequence[list[TokenizedDocument]],
    sequence_length: int,
    mode: Mode,
    end_of_text_id: int,
    start_ids: Sequence[int] = (),
) -> tuple[PackedRows, list[int], int]:
    """Lay the documents of each split end to end and cut them into rows of `sequence_length` + 1 ids.

    A label counts where it belongs to the same document as the id before it and its document scores it. What is left
    of a last row is filled with `end_of_text_id`, masked, as a document of its own. Every row begins with `start_ids`,
    fewer than `sequence_length`. Returns the rows, one split after the other; how many each split has; and how many ids
    fill last rows. The lists are emptied on the way, so that nothing is in memory twice.
    """
    start = np.array(start_ids, np.uint32)
    counts = [_count_rows(documents, sequence_length - len(start), mode, start) for documents in splits]
    rows = PackedRows.allocate(sum(map(sum, counts)), sequence_length)
    first = num_padding = 0
    for documents, rows_of_streams in zip(splits, counts, strict=True):
        documents.reverse()
        for num_rows in rows_of_streams:
            stream = _Stream(rows.part(first, first + num_rows), end_of_text_id, start)
            if mode == "one_document":
                stream.append_alone(documents.pop())
            else:
                while documents:
                    stream.append(documents.pop())
            num_padding += stream.finish()
            first += num_rows
    return rows, [sum(rows_of_streams) for rows_of_streams in counts], num_padding


def _count_rows(documents: list[TokenizedDocument], stride: int, mode: Mode, start: NDArray[np.uint32]) -> list[int]:
    """How many rows each stream of a split has."""
    if mode != "one_document":
        return [-(-max(sum(len(document.ids) for document in documents) - 1, 0) // stride)]
    started = [_num_started(document, start) for document in documents]  # what comes first then is a label, too
    lengths = [max(len(document.ids) - k - 1, min(k, 1)) for document, k in zip(documents, started, strict=True)]
    return [-(-length // stride) for length in lengths]


def _num_started(document: TokenizedDocument, start: NDArray[np.uint32]) -> int:
    """How many of its ids every row begins with anyway: all those `start` ids, or none."""
    return len(start) if np.array_equal(document.ids[: len(start)], start) else 0


class _Stream:
    """One line of ids on its way into rows that each begin with k `start` ids: id p of the line lies in row p div S, at
    column k + p mod S, where the stride S is T − k.

    An id at column k is also the last id of the row before, which `finish` fills in.
    """

    def __init__(self, rows: PackedRows, end_of_text_id: int, start: NDArray[np.uint32]) -> None:
        self._rows, self._end_of_text_id, self._start = rows, end_of_text_id, start
        self._num_rows, self._stride = len(rows.loss_mask), int(rows.loss_mask.shape[1]) - len(start)
        self._place = 0  # of the next id
        self._last_id = end_of_text_id

    def append(self, document: TokenizedDocument) -> None:
        """Lay one document behind those before it."""
        if self._num_rows:
            self._lay(self._rows.input_ids[:, len(self._start) : -1], document.ids)
            self._mark_start()
            self._count_labels(document.scored[1:], document.num_bytes[1:])
        self._last_id = int(document.ids[-1])
        self._place += len(document.ids)

    def append_alone(self, document: TokenizedDocument) -> None:
        """Lay the only document of this stream; the ids that it and every row begin with are its first row's."""
        if not (k := _num_started(document, self._start)) or not self._num_rows:
            self.append(document)
            return
        ids, scored, num_bytes = document.ids[k:], document.scored[k:], document.num_bytes[k:]
        self._lay(self._rows.input_ids[:, k:-1], ids)
        self._count_labels(scored[1:], num_bytes[1:])
        self._rows.loss_mask[0, k - 1] = scored[0]
        self._rows.num_bytes[0] += int(num_bytes[0]) * bool(scored[0])
        self._last_id = int(ids[-1])
        self._place += len(ids)

    def finish(self) -> int:
        """Fill the last row, and every last column; how many ids were filled in."""
        k, size = len(self._start), self._num_rows * self._stride + 1
        if self._num_rows == 0:
            return 0
        ids, starts = self._rows.input_ids, self._rows.document_starts
        num_padding = int(size - self._place)
        if num_padding:
            self._lay(ids[:, k:-1], np.full(num_padding, self._end_of_text_id, np.uint32))
            self._mark_start()
        ids[:, :k] = self._start
        ids[:-1, -1] = ids[1:, k]
        ids[-1, -1] = self._end_of_text_id if num_padding else self._last_id
        starts[:, 0] = True
        return num_padding

    def _lay(self, columns: NDArray[Any], values: NDArray[Any]) -> None:
        """Values from the next place on, into S columns: the rest of a row begun, whole rows, the beginning of one."""
        row, column = divmod(self._place, self._stride)
        while len(values) and row < self._num_rows:
            whole = 0 if column else len(values) // self._stride
            if whole:
                whole = min(whole, self._num_rows - row)
                count = whole * self._stride
                columns[row : row + whole] = values[:count].reshape(whole, self._stride)
            else:
                count = min(self._stride - column, len(values))
                columns[row, column : column + count] = values[:count]
            row, column = divmod(row * self._stride + column + count, self._stride)
            values = values[count:]

    def _mark_start(self) -> None:
        """A document begins at the next place, wherever that place is in a row."""
        starts, (row, column) = self._rows.document_starts, divmod(self._place, self._stride)
        if row < self._num_rows:
            starts[row, len(self._start) + column] = True
        if column == 0 and 0 < row <= self._num_rows:
            starts[row - 1, -1] = True

    def _count_labels(self, scored: NDArray[np.bool_], num_bytes: NDArray[np.integer]) -> None:
        """Every id but the first is a label, at the position before it."""
        self._lay(self._rows.loss_mask[:, len(self._start) :], scored)
        num_labels, first = len(scored), 0  # a block at a time: summing holds eight bytes a label
        while first < num_labels:
            row, column = divmod(self._place + first, self._stride)
            last = min(num_labels, first + _BLOCK_ROWS * self._stride - column)
            begins = np.maximum(np.arange(-column, last - first, self._stride), 0)  # of each row, among the labels
            sums = np.add.reduceat(num_bytes[first:last] * scored[first:last], begins, dtype=np.int64)
            self._rows.num_bytes[row : row + len(sums)] += sums
            first = last
