"""Long texts in pieces: a tokenizer needs a hundred times the memory of what it encodes in one call.

A piece ends before a single space between two letters wherever there is one. The usual tokenizers (byte-level BPE
behind the patterns of GPT-2, Llama 3 or Qwen, SentencePiece, white space) begin a word there whatever stands around
it, so the ids of the pieces, one after the other, are those of the whole text. In a text without such a place the next
best one is taken; it depends on nothing but the text.
"""

from __future__ import annotations

from collections.abc import Iterator

PIECE_CHARACTERS = 2**16


def cut_text(text: str, limit: int = PIECE_CHARACTERS) -> Iterator[tuple[int, int]]:
    """Start and end of each piece: consecutive, at most `limit` characters each, none empty but that of no text."""
    start = 0
    while len(text) - start > limit:
        end = _cut_before(text, start + limit // 2, start + limit)
        yield start, end
        start = end
    yield start, len(text)


def _cut_before(text: str, low: int, high: int) -> int:
    """The last good place to cut in [low, high), or `high`; there is a character before and after it."""
    for mark, offset, fits in (
        (" ", 0, _between_letters),
        (" ", 0, _alone),
        ("\n", 1, _alone),
    ):
        place = text.rfind(mark, low, high)
        while place >= 0:
            if fits(text[place - 1], text[place + 1]):
                return place + offset
            place = text.rfind(mark, low, place)
    return high


def _between_letters(before: str, after: str) -> bool:
    return before.isalpha() and after.isalpha()


def _alone(before: str, after: str) -> bool:
    return not before.isspace() and not after.isspace()
