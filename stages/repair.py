"""repair: take damaged shards out of a cache, so that cache-teacher computes them again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from pipeline import files
from pipeline.cache.repair import repair
from pipeline.cache.roots import find_files, shard_of
from pipeline.cache.verify import Problem, verify_cache
from pipeline.console import say
from pipeline.data.planned_tokenizer import planned_tokenizer
from pipeline.data.report import DataReport
from pipeline.runs import RunDirectory
from stages.config import roots_of_run


def run(path: Path, roots: Sequence[Path] = ()) -> list[Problem]:
    """Remove what is damaged below `path` and can be computed again; returns the problems that are left.

    Damaged shards of other roots are listed as passed over, and then computed again here.
    """
    with _held(path):
        problems = verify_cache(path, [*roots, *roots_of_run(path)], planned_tokenizer, DataReport.load)
        removed = set(repair(path, problems, _own_cache(path)))
    left = [problem for problem in problems if shard_of(problem.path) not in removed]
    for problem in left:
        say(f"✗ {problem}")
    if not problems:
        say("✓ nothing to repair")
    return left


def _own_cache(path: Path) -> Path:
    """Where `cache-teacher` writes, of a run or a cache."""
    run = RunDirectory(path)
    return run.cache if run.config.is_file() or run.cache.is_dir() else path


def _held(path: Path) -> ExitStack:
    """The locks of the runs that `path` is in, is, or holds: no stage may be writing what is removed."""
    path = path.resolve()  # of "." the parent is "."
    below = [RunDirectory(config.parent) for config in find_files(path, RunDirectory(path).config.name)]
    held = [one for one in (RunDirectory(path.parent), RunDirectory(path)) if one.config.is_file()]
    held += [one for one in below if one.root != path and one.status.is_file()]
    with ExitStack() as locks:
        for one in held:
            locks.enter_context(files.hold_lock(one.root / ".lock", "at work in this run directory"))
        return locks.pop_all()
