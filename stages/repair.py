"""repair: take damaged shards out of a cache, so that cache-teacher computes them again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from pipeline import files
from pipeline.cache.verify import Problem, repair, shard_of, verify_cache
from pipeline.console import say
from pipeline.data.planned_tokenizer import planned_tokenizer
from pipeline.data.report import DataReport
from stages.config import roots_of_run


def run(path: Path, roots: Sequence[Path] = ()) -> list[Problem]:
    """Remove what is damaged below `path` and can be computed again; returns the problems that are left."""
    with _held(path):
        problems = verify_cache(path, [*roots, *roots_of_run(path)], planned_tokenizer, DataReport.load)
        removed = set(repair(path, problems))
    left = [problem for problem in problems if shard_of(problem.path) not in removed]
    for problem in left:
        say(f"✗ {problem}")
    if not problems:
        say("✓ nothing to repair")
    return left


def _held(path: Path) -> AbstractContextManager[None]:
    """The run's lock, where `path` is a run directory or the cache of one: no stage may be writing what is removed."""
    runs = [folder for folder in (path, path.parent) if (folder / "config.yaml").is_file()]
    return files.hold_lock(runs[0] / ".lock", "at work in this run directory") if runs else nullcontext()
