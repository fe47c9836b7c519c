"""verify: check every byte of a cache against its seals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.cache.teacher_cache import TeacherCache
from pipeline.cache.verify import Problem, verify_cache
from pipeline.console import say
from pipeline.data.planned_tokenizer import planned_tokenizer
from pipeline.data.report import DataReport


def run(path: Path, roots: Sequence[Path] = ()) -> list[Problem]:
    """Say and return everything wrong; an empty list means every sealed byte is as it was sealed."""
    problems = verify_cache(path, roots, planned_tokenizer, DataReport.load)
    for problem in problems:
        say(f"✗ {problem}")
    if problems:
        say(f"{len(problems)} problems")
    else:
        cache = TeacherCache.open(path, *roots)
        say(f"✓ {len(cache.sealed)} of {len(cache.plan.shards)} shards are sealed, and every byte is as it was sealed")
    return problems
