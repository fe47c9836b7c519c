"""Text to sequences: reading, validating, tokenising and packing documents."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "DataReport": "report",
    "Document": "documents",
    "Sequences": "sequences",
    "Tokenizer": "tokenizer",
    "pinned": "documents",
    "prepare_sequences": "preparation",
    "source_fingerprint": "documents",
    "train_tokenizer": "bpe",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
