"""Packing: documents into rows of T+1 ids.

The documents of a split form one stream of ids that is cut into rows with stride T: the last id of a row is the first
of the next, so every id but the first is the label of exactly one position. With `one_document` each document is a
stream of its own, for models that cannot keep two documents of a row apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.documents import TokenizedDocument

Mode = Literal["packed", "one_document"]
PACKING_VERSION = 1


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows of one split; the arrays are those of Sequences."""

    input_ids: NDArray[np.uint32]  # [S, T+1]
    loss_mask: NDArray[np.bool_]  # [S, T]
    document_starts: NDArray[np.bool_]  # [S, T+1]
    num_bytes: NDArray[np.int64]  # [S]
    num_padding: int  # ids added to fill last rows


def pack(documents: Iterable[TokenizedDocument], sequence_length: int, mode: Mode, end_of_text_id: int) -> PackedRows:
    """Lay documents end to end and cut them into rows of `sequence_length` + 1 ids.

    A label counts where it belongs to the same document as the id before it and its document scores it. What is left
    of a last row is filled with `end_of_text_id`, masked, as a document of its own.
    """
    whole = list(documents)
    streams = [whole] if mode == "packed" or not whole else [[document] for document in whole]
    cut = [_cut_stream(stream, sequence_length, end_of_text_id) for stream in streams]
    return PackedRows(
        np.concatenate([rows.input_ids for rows in cut]),
        np.concatenate([rows.loss_mask for rows in cut]),
        np.concatenate([rows.document_starts for rows in cut]),
        np.concatenate([rows.num_bytes for rows in cut]),
        sum(rows.num_padding for rows in cut),
    )


def _cut_stream(documents: list[TokenizedDocument], sequence_length: int, end_of_text_id: int) -> PackedRows:
    lengths = np.array([len(document.ids) for document in documents], np.int64)
    num_ids = int(lengths.sum())
    num_rows = math.ceil(max(num_ids - 1, 0) / sequence_length)
    size = num_rows * sequence_length + 1

    ids = np.full(size, end_of_text_id, np.uint32)
    starts = np.zeros(size + 1, np.bool_)
    scored = np.zeros(size, np.bool_)
    num_bytes = np.zeros(size, np.int64)
    starts[np.cumsum(lengths)] = True  # the start of every next document, and of the padding
    starts[0] = True
    for document, end in zip(documents, np.cumsum(lengths), strict=True):
        place = slice(end - len(document.ids), end)
        ids[place], scored[place], num_bytes[place] = document.ids, document.scored, document.num_bytes

    counts = (scored & ~starts[:-1])[1:size].reshape(num_rows, sequence_length)
    bytes_ST = num_bytes[1:size].reshape(num_rows, sequence_length)
    starts_SW = _overlapping_rows(starts, num_rows, sequence_length)
    starts_SW[:, 0] = True
    return PackedRows(
        _overlapping_rows(ids, num_rows, sequence_length),
        counts,
        starts_SW,
        np.where(counts, bytes_ST, 0).sum(axis=1, dtype=np.int64),
        size - num_ids if num_rows else 0,
    )


def _overlapping_rows(stream: NDArray, num_rows: int, sequence_length: int) -> NDArray:  # type: ignore[type-arg]
    """Rows of T+1 entries with stride T, copied."""
    if num_rows == 0:
        return np.zeros((0, sequence_length + 1), stream.dtype)
    windows = np.lib.stride_tricks.sliding_window_view(stream[: num_rows * sequence_length + 1], sequence_length + 1)
    return windows[::sequence_length].copy()
