"""Plain texts to ids, piece by piece, with the bytes each id adds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.byte_lengths import bytes_of_spans, count_uncovered, spans_of
from pipeline.data.control_tokens import ControlTokens
from pipeline.data.documents import Document, Findings, TokenizedDocument, Unreadable
from pipeline.data.pieces import cut_text

GROUP_CHARACTERS = 2**19  # encoded in one call: enough to keep several cores busy, little enough to pause after
EncodeBatch = Callable[[list[str], bool, bool], list[Any]]  # texts, are control tokens read, are spans needed
Done = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class _Piece:
    number: int  # of its document
    text: str
    gap_bytes: int  # of the document's text, before this piece, that no piece holds


class _Growing:
    """An array of numbers at least 0 that grows at its end, in place, in the smallest type that holds them."""

    def __init__(self, dtype: type[np.unsignedinteger]) -> None:
        self._dtype = np.dtype(dtype)
        self._buffer = bytearray()

    def __len__(self) -> int:
        return len(self._buffer) // self._dtype.itemsize

    def extend(self, values: NDArray[np.integer]) -> None:
        """Put `values` at the end."""
        dtype = np.promote_types(self._dtype, np.min_scalar_type(int(values.max(initial=0))))
        if dtype != self._dtype:
            self._buffer = bytearray(self.array().astype(dtype).data.cast("B"))
            self._dtype = dtype
        self._buffer += values.astype(dtype).data.cast("B")

    def array(self) -> NDArray[np.unsignedinteger]:
        """All of them, sharing memory."""
        return np.frombuffer(self._buffer, self._dtype)


@dataclass(slots=True)
class _TextSoFar:
    """The ids of a text as far as it is encoded, after those that stand before every text."""

    findings: Findings
    ids: _Growing = field(default_factory=lambda: _Growing(np.uint32))
    num_bytes: _Growing = field(default_factory=lambda: _Growing(np.uint8))
    bytes_left: int = 0  # that no token was charged with: the next one is

    def add(self, ids: NDArray[np.uint32], num_bytes: NDArray[np.int64], size_bytes: int) -> None:
        """One more piece, of `size_bytes`."""
        left = size_bytes - int(num_bytes.sum())
        if not len(ids):
            self.bytes_left += left
            return
        num_bytes[0] += self.bytes_left
        self.bytes_left = left
        self.ids.extend(ids)
        self.num_bytes.extend(num_bytes)


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """Encodes plain texts; a text longer than a piece is cut, and its ids are those of the pieces in a line."""

    encode_batch: EncodeBatch
    bytes_of_ids: NDArray[np.int64] | None  # [V] for a byte-level tokenizer
    control: ControlTokens
    start_ids: Sequence[int]  # before every text, not scored
    end_of_text_id: int
    unknown_id: int | None
    adds_space: bool  # the tokenizer puts a space before whatever it is given

    def encode(
        self, documents: Sequence[Document], read_control_tokens: bool, done: Done, most_ids: int | None = None
    ) -> list[TokenizedDocument | Unreadable]:
        """Each document as ids; after every group of pieces `done` hears how many characters it had.

        A text that has `most_ids` ids, the end-of-text id not among them, is not encoded any further.
        """
        texts = [self._begin(document) for document in documents]
        for group in _groups(self._pieces(documents, texts, most_ids)):
            encodings = self.encode_batch([piece.text for piece in group], read_control_tokens, self._needs_spans)
            encodings.reverse()
            for piece in group:  # an encoding holds a hundred bytes a token: none is kept
                self._add(texts[piece.number], piece, encodings.pop(), read_control_tokens)
            done(sum(len(piece.text) for piece in group))
        return [self._finish(*pair) for pair in zip(documents, texts, strict=True)]

    @property
    def _needs_spans(self) -> bool:
        return self.bytes_of_ids is None

    def _pieces(
        self, documents: Sequence[Document], texts: Sequence[_TextSoFar], most_ids: int | None
    ) -> Iterator[_Piece]:
        for number, document in enumerate(documents):
            for start, end in cut_text(document.text):
                if most_ids is not None and len(texts[number].ids) >= most_ids + len(self.start_ids):
                    break
                gap = int(self.adds_space and start > 0 and document.text[start] == " ")
                yield _Piece(number, document.text[start + gap : end], gap)

    def _add(self, so_far: _TextSoFar, piece: _Piece, encoding: Any, read_control_tokens: bool) -> None:
        ids = np.array(encoding.ids, np.uint32)
        size_bytes = len(piece.text.encode())
        findings = so_far.findings
        num_bytes = None if self.bytes_of_ids is None else self.bytes_of_ids[ids]
        if num_bytes is None or int(num_bytes.sum()) != size_bytes:  # a normaliser changed the text, or lost some
            if num_bytes is not None:
                (encoding,) = self.encode_batch([piece.text], read_control_tokens, True)
            starts, ends = spans_of(encoding)
            num_bytes = bytes_of_spans(piece.text, ends)
            findings.num_uncovered_characters += count_uncovered(piece.text, starts, ends)
        if self.unknown_id is not None:
            findings.num_unknown_tokens += int(np.count_nonzero(ids == self.unknown_id))
        findings.num_control_spelled += self.control.count_spelled(piece.text)
        findings.num_control_ids += self.control.count_ids(ids)
        so_far.bytes_left += piece.gap_bytes
        so_far.add(ids, num_bytes, size_bytes)

    def _finish(self, document: Document, text: _TextSoFar) -> TokenizedDocument | Unreadable:
        """Add the ids before a text, which are not scored, and the end-of-text id, which is: it gets the bytes left."""
        start, end = len(self.start_ids), np.array([self.end_of_text_id], np.uint32)
        if len(text.ids) == start:
            return Unreadable(document.key, "encodes to no token")
        text.add(end, np.zeros(1, np.int64), 0)
        ids, num_bytes = text.ids.array(), text.num_bytes.array()
        scored: NDArray[np.bool_] = np.broadcast_to(np.bool_(True), len(ids))  # one byte for all of them
        if start:
            scored = np.arange(len(ids)) >= start
        return TokenizedDocument(document.key, ids, scored, num_bytes, text.findings)

    def _begin(self, document: Document) -> _TextSoFar:
        text = _TextSoFar(Findings(num_characters=len(document.text)))
        text.add(np.array(self.start_ids, np.uint32), np.zeros(len(self.start_ids), np.int64), 0)
        return text


def _groups(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    group: list[_Piece] = []
    num_characters = 0
    for piece in pieces:
        group.append(piece)
        num_characters += len(piece.text)
        if num_characters >= GROUP_CHARACTERS:
            yield group
            group, num_characters = [], 0
    if group:
        yield group
