"""Damaged shards are taken out of a cache, and passed over where nothing can be taken out: they are then absent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline import files
from pipeline.cache.passed_over import pass_over
from pipeline.cache.plan import SHARDS_FOLDER
from pipeline.cache.roots import seal_beside, shard_of
from pipeline.cache.seal import Seal
from pipeline.cache.unread import unread_errors
from pipeline.cache.verify import Problem
from pipeline.console import say
from pipeline.errors import SadError


def repair(folder: Path, problems: Iterable[Problem], own_cache: Path | None = None) -> list[Path]:
    """Remove the damaged shards among `problems` that lie below `folder`, each seal before its shard.

    Returns the shards that no longer count; `cache-teacher` computes them again. Files of other roots are never
    touched: damaged copies there are listed in `own_cache`, where one is given, as passed over.
    """
    removed, passed_over = [], []
    for path in sorted({shard_of(problem.path) for problem in problems if problem.repairable}):
        if folder.resolve() not in path.resolve().parents:
            if own_cache is None or not _is_other_than_sealed(path):
                say(
                    f"{path}: lies outside {folder} and is left alone; replace it by a good copy, or leave its root out"
                )
            else:
                passed_over.append(path)
            continue
        files.remove_file(seal_beside(path))
        files.remove_file(path)
        removed.append(path)
    if removed:
        say(f"{_shards(removed)} removed; run `sad-pipeline cache-teacher` to compute what is missing again")
    if passed_over and own_cache is not None:
        listed = pass_over(own_cache / SHARDS_FOLDER, passed_over)
        say(
            f"{_shards(passed_over)} outside {folder} passed over from here on, as {listed} says; run `sad-pipeline "
            "cache-teacher` to compute what is missing here"
        )
    return removed + passed_over


def _is_other_than_sealed(shard: Path) -> bool:
    """Whether its bytes are not those that its seal names: such a copy can be known again, and is never a good one."""
    try:
        with unread_errors(shard):
            return files.digest_file(shard).xxh3_128 != Seal.load(seal_beside(shard)).xxh3_128
    except (SadError, OSError):
        return False


def _shards(paths: Sequence[Path]) -> str:
    return f"{len(paths)} damaged {'shard' if len(paths) == 1 else 'shards'}"
