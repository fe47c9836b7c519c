"""Text to sequences: reading, validating, tokenising and packing documents."""

from __future__ import annotations

from pipeline.lazy_names import lazy_names

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

__getattr__ = lazy_names(__name__, _EXPORTS)
