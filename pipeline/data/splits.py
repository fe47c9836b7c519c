"""Which documents are for training and which are held out, and in what order each split is packed.

Both are decided by hashes of the keys alone: adding a document moves no other.
"""

from __future__ import annotations

import hashlib

import numpy as np

from pipeline.console import warn_once
from pipeline.data.documents import TokenizedDocument, order_key
from pipeline.errors import ConfigError


def split_place(key: str) -> float:
    """A number in [0, 1) for each key, of equal chance."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def is_held_out(key: str, validation_fraction: float) -> bool:
    """Whether the hash of its key puts a document among those for validation."""
    return split_place(key) < validation_fraction


def split_documents(
    documents: list[TokenizedDocument], validation_fraction: float, seed: int, end_of_text_id: int
) -> tuple[list[TokenizedDocument], list[TokenizedDocument]]:
    """Training and validation documents, each in its seeded order and neither empty.

    Where the hash leaves one side empty the nearest document changes sides; a single document is cut in two.
    ConfigError where a single document is too short for that.
    """
    if len(documents) == 1:
        train, validation = cut_in_two(documents[0], validation_fraction, end_of_text_id)
        return [train], [validation]
    ranked = sorted(documents, key=lambda document: (split_place(document.key), document.key))
    num_below = sum(is_held_out(document.key, validation_fraction) for document in ranked)
    num_held_out = min(max(num_below, 1), len(ranked) - 1)
    if num_held_out != num_below:
        warn_once(
            f"of {len(ranked)} documents the hash of their keys held out {num_below}; {num_held_out} it is, so that "
            "there is something to train on and something to validate on"
        )
    parts = ranked[num_held_out:], ranked[:num_held_out]
    train_part, validation_part = (sorted(part, key=lambda document: order_key(seed, document.key)) for part in parts)
    return train_part, validation_part


def cut_in_two(
    document: TokenizedDocument, validation_fraction: float, end_of_text_id: int
) -> tuple[TokenizedDocument, TokenizedDocument]:
    """The beginning of a document, for training, and its end, for validation."""
    length = len(document.ids)
    if length < 4:
        raise ConfigError(
            f"document {document.key}: is the only usable one and has {length} tokens, which is too little to train "
            "and to validate on. Give more text."
        )
    place = min(max(round(length * (1 - validation_fraction)), 2), length - 2)
    warn_once(
        f"the data is one document ({document.key}); its last {length - place:,} of {length:,} tokens are held out for "
        "validation"
    )
    beginning = TokenizedDocument(
        f"{document.key} (beginning)",
        np.append(document.ids[:place], np.uint32(end_of_text_id)),
        np.append(document.scored[:place], False),
        np.append(document.num_bytes[:place], document.num_bytes.dtype.type(0)),
    )
    end = TokenizedDocument(  # copied: a view would keep all of the document in memory
        f"{document.key} (end)",
        document.ids[place:].copy(),
        document.scored[place:].copy(),
        document.num_bytes[place:].copy(),
    )
    return beginning, end
