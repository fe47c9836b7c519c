"""Damaged copies of shards in folders that are only read: known by their bytes, so that no reader takes them up again.

`repair` lists them in the cache of its own run. From then on such a copy counts as absent, wherever it is mounted, and
`cache-teacher` computes its shard again. Another copy of the same shard, with other bytes, is none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline import files
from pipeline.cache.unread import size_on_disk, unread_errors
from pipeline.console import warn_once
from pipeline.errors import DamagedDataError

PASSED_OVER_NAME = "passed_over.json"
_FORMAT = 1
_DIGEST = re.compile(r"[0-9a-f]{32}")

PassedOver = Mapping[str, frozenset[str]]
"""file name of a shard -> xxh3-128 of its copies that are damaged"""


def read_passed_over(paths: Iterable[Path]) -> PassedOver:
    """What all lists say together. One that is damaged says nothing, and that is told."""
    found: dict[str, set[str]] = {}
    for path in paths:
        try:
            for name, digests in _read(path).items():
                found.setdefault(name, set()).update(digests)
        except DamagedDataError as error:
            warn_once(f"{error}. Remove it, and run `sad-pipeline repair` again where a shard is damaged still")
    return {name: frozenset(digests) for name, digests in found.items()}


def pass_over(folder: Path, shards: Iterable[Path]) -> Path:
    """Add copies, as their bytes are now, to the list beside the shards in `folder`; returns the list's path."""
    path = folder / PASSED_OVER_NAME
    known = {name: set(digests) for name, digests in read_passed_over([path] if path.is_file() else []).items()}
    for shard in shards:
        known.setdefault(shard.name, set()).add(files.digest_file(shard).xxh3_128)
    listed = {name: sorted(digests) for name, digests in sorted(known.items())}
    files.write_json(path, {"format": _FORMAT, "shards": listed})
    return path


def is_passed_over(shard: Path, passed_over: PassedOver) -> bool:
    """Whether a copy is one of those; it is read through only where its name is listed."""
    if shard.name not in passed_over or size_on_disk(shard) is None:
        return False
    with unread_errors(shard):
        return files.digest_file(shard).xxh3_128 in passed_over[shard.name]


def _read(path: Path) -> dict[str, list[str]]:
    with unread_errors(path):
        value = files.read_json(path)
    shards = value.get("shards")
    if value.get("format") != _FORMAT or not isinstance(shards, dict):
        raise DamagedDataError(f"{path}: is no list of damaged copies")
    for digests in shards.values():
        if not isinstance(digests, list) or not all(isinstance(d, str) and _DIGEST.fullmatch(d) for d in digests):
            raise DamagedDataError(f"{path}: expected xxh3-128 of damaged copies, found {str(digests)[:80]!r}")
    return shards
