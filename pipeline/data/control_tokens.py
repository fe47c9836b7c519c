"""Control tokens: the special tokens of a tokenizer, which a text may spell without meaning them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ControlTokens:
    """Spellings and ids of a tokenizer's special tokens, but for the unknown token."""

    def __init__(self, backend: Any, vocab_size: int, unknown_id: int | None, end_of_text_id: int) -> None:
        added = {index: token.content for index, token in backend.get_added_tokens_decoder().items() if token.special}
        self._is_control = np.zeros(vocab_size, np.bool_)  # [V]
        self._is_control[[end_of_text_id, *added]] = True
        if unknown_id is not None:
            self._is_control[unknown_id] = False
        spellings = {*added.values(), backend.id_to_token(end_of_text_id)}
        longest_first = sorted(spellings, key=lambda spelling: (-len(spelling), spelling))
        self._pattern = re.compile("|".join(re.escape(spelling) for spelling in longest_first if spelling))

    def count_spelled(self, text: str) -> int:
        """How often `text` spells one of them."""
        return sum(1 for _ in self._pattern.finditer(text))

    def count_ids(self, ids: NDArray[np.uint32]) -> int:
        """How many of `ids` are one of them."""
        return int(np.count_nonzero(self._is_control[ids]))
