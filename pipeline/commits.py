"""COMMIT.json: the file of a folder that is written last and lists size and xxh3-128 of the others.

A checkpoint counts only once it has one. In an exported model it tells what training left from what became of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline import files
from pipeline.errors import DamagedDataError
from pipeline.files import FileDigest
from pipeline.links import refuse_links_out

COMMIT = "COMMIT.json"


def write_commit(folder: Path, digests: Mapping[str, FileDigest]) -> None:
    """Say what the files of `folder` are; the last thing that is written there."""
    entries = {name: {"size_bytes": digest.size_bytes, "xxh3_128": digest.xxh3_128} for name, digest in digests.items()}
    files.write_json(folder / COMMIT, entries)


def check_commit(folder: Path, only: str | None = None) -> set[str]:
    """Check a folder against its COMMIT.json, and return the names that it lists; DamagedDataError says what does not
    fit. With `only` that file alone is read, and of the others the size is compared."""
    path = folder / COMMIT
    refuse_links_out(folder, [path])
    commit = files.read_json(path)
    for name, expected in commit.items():
        file = folder / name
        if file.parent != folder or not isinstance(expected, dict):
            raise DamagedDataError(f"{path}: {name!r} is not an entry of it")
        refuse_links_out(folder, [file])
        if not file.is_file():
            raise DamagedDataError(f"{file}: is listed in {COMMIT} and missing")
        same_size = file.stat().st_size == expected.get("size_bytes")
        is_read = only in (None, name)
        if not same_size or (is_read and files.digest_file(file).xxh3_128 != expected.get("xxh3_128")):
            raise DamagedDataError(f"{file}: size or xxh3-128 differs from {COMMIT}")
    return set(commit)
