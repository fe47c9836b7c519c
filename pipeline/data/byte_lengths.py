"""How many UTF-8 bytes of a text each of its tokens adds: what bits per byte are counted with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import pre_tokenizers


def bytes_before_characters(text: str) -> NDArray[np.int64]:
    """[len + 1]: the UTF-8 bytes of the first i characters of `text`, for i from 0 to its length."""
    if text.isascii():
        return np.arange(len(text) + 1, dtype=np.int64)
    points = np.frombuffer(text.encode("utf-32-le"), "<u4")
    widths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    return np.concatenate(([0], np.cumsum(widths)))


def bytes_of_spans(text: str, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """[n]: bytes each token adds, from the character its span ends before.

    A character cut into several byte tokens is counted with the first; characters no span covers (dropped spaces)
    are counted with the next token, and not at all after the last.
    """
    reached = np.maximum.accumulate(bytes_before_characters(text)[ends]) if len(ends) else np.zeros(0, np.int64)
    return np.diff(reached, prepend=0)


def spans_of(encoding: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First character, and the one after the last, of each token."""
    offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    return offsets[:, 0], offsets[:, 1]


def count_uncovered(text: str, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> int:
    """How many characters of `text` no span covers, white space apart: text that its tokens do not spell."""
    reached = np.maximum.accumulate(ends)
    if len(ends) and starts[0] == 0 and reached[-1] == len(text) and (starts[1:] <= reached[:-1]).all():
        return 0
    size = len(text) + 1
    depth = np.cumsum(np.bincount(starts, minlength=size) - np.bincount(ends, minlength=size))[:-1]
    return sum(not text[place].isspace() for place in np.flatnonzero(depth == 0))


def narrowed(values: NDArray[np.int64]) -> NDArray[np.unsignedinteger]:
    """The same counts in the smallest unsigned type that holds them."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def bytes_of_ids(vocabulary: dict[str, int], added: dict[str, int]) -> NDArray[np.int64]:
    """[V]: bytes each id of a byte-level vocabulary stands for; 0 where its spelling is not byte-level.

    A byte-level token is spelled with one stand-in character a byte; an added token is spelled as it is.
    """
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    table = np.zeros(max(vocabulary.values(), default=-1) + 1, np.int64)
    for token, index in vocabulary.items():
        table[index] = len(token) if alphabet.issuperset(token) else 0
    for token, index in added.items():
        table[index] = len(token.encode())
    return table
