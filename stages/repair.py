"""repair: take damaged shards out of a cache, so that cache-teacher computes them again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.cache.verify import repair, verify_cache
from pipeline.console import say


def run(path: Path, roots: Sequence[Path] = ()) -> list[Path]:
    """Remove what is damaged below `path` and can be computed again; returns the shards removed."""
    problems = verify_cache(path, roots)
    removed = repair(path, problems)
    for problem in problems:
        if not problem.repairable:
            say(f"✗ {problem}")
    if not problems:
        say("✓ nothing to repair")
    return removed
