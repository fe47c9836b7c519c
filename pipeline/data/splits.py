"""Which documents are for training and which are held out, and in what order each split is packed.

Both are decided by hashes of the keys alone: adding a document moves no other. Only where documents are so few and
huge that the hash would hold out far more or less than was asked, the huge ones are cut in two.
"""

from __future__ import annotations

import hashlib

import numpy as np

from pipeline.console import warn_once
from pipeline.data.documents import TokenizedDocument, order_key
from pipeline.errors import ConfigError

HUGE_TOKENS = 2**16
"""A document of so many is huge: a book, or many documents in one file; a cut in it breaks one text of very many"""
_FAR = 4  # times as much held out, or as little, as was asked, by odds
Parts = tuple[list[TokenizedDocument], list[TokenizedDocument]]


def split_place(key: str) -> float:
    """A number in [0, 1) for each key, of equal chance."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def is_held_out(key: str, validation_fraction: float) -> bool:
    """Whether the hash of its key puts a document among those for validation."""
    return split_place(key) < validation_fraction


def split_documents(
    documents: list[TokenizedDocument], validation_fraction: float, seed: int, end_of_text_id: int
) -> Parts:
    """Training and validation documents, each in its seeded order and neither empty.

    Where the hash leaves one side empty the nearest document changes sides; a single document is cut in two, and so is
    every huge one where the share of tokens held out is far from what was asked. ConfigError where a single document
    is too short for that.
    """
    if len(documents) == 1:
        train, validation = cut_in_two(documents[0], validation_fraction, end_of_text_id)
        return [train], [validation]
    ranked = sorted(documents, key=lambda document: (split_place(document.key), document.key))
    num_below = sum(is_held_out(document.key, validation_fraction) for document in ranked)
    num_held_out = min(max(num_below, 1), len(ranked) - 1)
    parts = ranked[num_held_out:], ranked[:num_held_out]
    if _is_far(parts, validation_fraction) and any(map(_is_huge, ranked)):
        parts = _cut_huge(parts, validation_fraction, end_of_text_id)
    elif num_held_out != num_below:
        warn_once(
            f"of {len(ranked)} documents the hash of their keys held out {num_below}; {num_held_out} it is, so that "
            "there is something to train on and something to validate on"
        )
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
    beginning, end = _halves(document, validation_fraction, end_of_text_id)
    warn_once(
        f"the data is one document ({document.key}); its last {len(end.ids):,} of {length:,} tokens are held out for "
        "validation"
    )
    return beginning, end


def beginning_of(document: TokenizedDocument, num_ids: int, end_of_text_id: int, key: str) -> TokenizedDocument:
    """The first ids of a document and the end-of-text id, which is no label that counts: no text ends there."""
    return TokenizedDocument(
        key,
        np.append(document.ids[:num_ids], np.uint32(end_of_text_id)),
        np.append(document.scored[:num_ids], False),
        np.append(document.num_bytes[:num_ids], document.num_bytes.dtype.type(0)),
    )


def _halves(
    document: TokenizedDocument, validation_fraction: float, end_of_text_id: int
) -> tuple[TokenizedDocument, TokenizedDocument]:
    length = len(document.ids)
    place = min(max(round(length * (1 - validation_fraction)), 2), length - 2)
    beginning = beginning_of(document, place, end_of_text_id, f"{document.key} (beginning)")
    end = TokenizedDocument(  # copied: a view would keep all of the document in memory
        f"{document.key} (end)",
        document.ids[place:].copy(),
        document.scored[place:].copy(),
        document.num_bytes[place:].copy(),
    )
    return beginning, end


def _is_huge(document: TokenizedDocument) -> bool:
    return len(document.ids) >= HUGE_TOKENS


def _num_tokens(documents: list[TokenizedDocument]) -> int:
    return sum(len(document.ids) for document in documents)


def _is_far(parts: Parts, validation_fraction: float) -> bool:
    """Whether the odds of a token to be held out are more than _FAR times those asked for, or less than a _FAR-th."""
    train, validation = map(_num_tokens, parts)
    times = validation * (1 - validation_fraction) / (train * validation_fraction)
    return not 1 / _FAR <= times <= _FAR


def _cut_huge(parts: Parts, validation_fraction: float, end_of_text_id: int) -> Parts:
    """The huge documents of both sides cut in two as a single one is; the others stay where they are."""
    train, validation = map(_num_tokens, parts)
    huge = [document for part in parts for document in part if _is_huge(document)]
    train_part, validation_part = ([document for document in part if not _is_huge(document)] for part in parts)
    warn_once(
        f"the hash of their keys would hold out {validation / (train + validation):.1%} of the tokens, and "
        f"data.validation_fraction asks for {validation_fraction:.1%}; so of each document of {HUGE_TOKENS:,} tokens "
        f"or more ({len(huge):,} of {sum(map(len, parts)):,}) the end is held out, and the rest is for training"
    )
    for document in huge:
        beginning, end = _halves(document, validation_fraction, end_of_text_id)
        train_part.append(beginning)
        validation_part.append(end)
    return train_part, validation_part
