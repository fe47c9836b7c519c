"""repair: take damaged shards out of a cache, so that cache-teacher computes them again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from pipeline import files
from pipeline.cache.roots import find_files
from pipeline.cache.verify import Problem, repair, shard_of, verify_cache
from pipeline.console import say
from pipeline.data.planned_tokenizer import planned_tokenizer
from pipeline.data.report import DataReport
from stages.config import roots_of_run

_CONFIG = "config.yaml"  # in every run directory


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


def _held(path: Path) -> ExitStack:
    """The locks of the runs that `path` is in, is, or holds: no stage may be writing what is removed."""
    runs = [path.parent] if (path.parent / _CONFIG).is_file() else []
    runs += [config.parent for config in find_files(path, _CONFIG) if config.with_name("status.json").is_file()]
    with ExitStack() as locks:
        for run_dir in runs:
            locks.enter_context(files.hold_lock(run_dir / ".lock", "at work in this run directory"))
        return locks.pop_all()
