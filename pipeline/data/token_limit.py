"""data.max_tokens: how much text still fits, and the text at which the limit falls, cut there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipeline.data.documents import Document, TokenizedDocument
from pipeline.data.splits import HUGE_TOKENS, beginning_of, is_held_out


@dataclass(slots=True)
class TokenLimit:
    """Counts training tokens up to `max_tokens`, where there is such a limit.

    A huge document that is held out counts too: it may be cut in two, and most of it be for training.
    """

    max_tokens: int | None
    validation_fraction: float
    end_of_text_id: int
    num_taken: int = 0
    reached: bool = False

    @property
    def most_ids(self) -> int | None:
        """How many ids of one text are enough for now: of a longer one the rest cannot be taken."""
        return None if self.max_tokens is None else max(self.max_tokens - self.num_taken, HUGE_TOKENS)

    def take(self, document: Document, encoded: TokenizedDocument) -> TokenizedDocument | None:
        """The document, its beginning where the limit falls in it, or None where too little fits to learn from.

        A chat is kept whole. A text that is cut ends as the first part of one that is cut in two does.
        """
        if len(encoded.ids) < HUGE_TOKENS and is_held_out(document.key, self.validation_fraction):
            return encoded
        left = len(encoded.ids) if self.max_tokens is None else self.max_tokens - self.num_taken
        if len(encoded.ids) > left and document.messages is None:
            encoded = _cut(document, encoded, left, self.end_of_text_id)
        self.num_taken += len(encoded.ids)
        self.reached = self.num_taken == self.max_tokens or len(encoded.ids) > left
        return encoded if encoded.scored[1:].any() or not self.reached else None


def _cut(document: Document, encoded: TokenizedDocument, num_ids: int, end_of_text_id: int) -> TokenizedDocument:
    """So many ids, the end-of-text id among them; what else tokenising met is told as far as it went."""
    cut = beginning_of(encoded, num_ids - 1, end_of_text_id, document.key)
    size_bytes = int(cut.num_bytes.sum(dtype=np.int64))
    num_characters = len(document.text[:size_bytes].encode()[:size_bytes].decode(errors="ignore"))
    beyond = len(document.text) - num_characters
    return replace(cut, findings=replace(encoded.findings, num_characters=num_characters, num_characters_beyond=beyond))
