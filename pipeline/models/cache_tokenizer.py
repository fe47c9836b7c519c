"""The tokenizer of a cache, as its plan names it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.cache.plan import Plan
from pipeline.cache.roots import find_tokenizer
from pipeline.data.planned_tokenizer import planned_tokenizer
from pipeline.data.tokenizer import Tokenizer


def tokenizer_of(plan: Plan, folders: Sequence[Path]) -> Tokenizer:
    """The tokenizer that lies in one of the folders of a cache; refused where it is not the plan's, or damaged."""
    return planned_tokenizer(find_tokenizer(folders), plan.identity["tokenizer"])
