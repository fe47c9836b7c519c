"""inspect: look into a cache: its text, the teacher's choices, its statistics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.cache.teacher_cache import TeacherCache
from pipeline.evaluation.inspection import describe_cache, describe_sequence, tables
from pipeline.models.cache_tokenizer import tokenizer_of
from stages.config import roots_of_run


def run(
    path: Path, roots: Sequence[Path] = (), sequences: Sequence[int] = (), positions: int = 12, top: int = 5
) -> dict[str, Any]:
    """Show the cache as a whole and some sequences of it; without `sequences`, the first sealed one."""
    with TeacherCache.open(path, *roots, *roots_of_run(path)) as cache:
        tokenizer = tokenizer_of(cache.plan, cache.folders)
        shown = list(sequences) or [span.first for span in cache.sealed[:1]]
        result = describe_cache(cache)
        result["sequences"] = [describe_sequence(cache, tokenizer, index, positions, top) for index in shown]
    console = Console(stderr=True)
    for table in tables(result):
        console.print(table)
    return result
