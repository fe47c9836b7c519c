"""Kinds of defects, and how a table of them becomes mutants."""

from __future__ import annotations

from tests.reliability.mutant import Mutant

KINDS = ("fsync", "rename", "hash or comparison", "order", "lock", "temporary", "identity")
FSYNC, RENAME, HASH, ORDER, LOCK, TEMPORARY, IDENTITY = KINDS


def of(file: str, *mutants: tuple[str, str, str, *tuple[str, ...]]) -> list[Mutant]:
    """Mutants of one file, each as (name, kind, noticed by, old, new, old, new ...)."""
    return [
        Mutant(name, kind, file, suite, tuple(zip(texts[::2], texts[1::2], strict=True)))
        for name, kind, suite, *texts in mutants
    ]
