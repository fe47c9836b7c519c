"""Files of a cache that the system does not let us read now: they may be whole, so they are no damage."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from pipeline.refusals import TOO_MANY_FILES, cannot_be_read_now, storage_errors

_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
_SEALED_NAME = re.compile(r"(\d+)\.(?:shard|seal\.json)")


@contextlib.contextmanager
def unread_errors(path: Path, *of_its_bytes: int) -> Iterator[None]:
    """StorageError where the system refuses to read `path`, or what it names; that there is no such file is passed on.

    So are errors of the numbers `of_its_bytes`: those come of what is in the file.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno in (*_NO_FILE, *of_its_bytes):
            raise
        place = refused_place(path, error)
        if error.errno in TOO_MANY_FILES:
            with storage_errors(place):
                raise
        raise cannot_be_read_now(place, error, _way_on(place)) from error


def refused_place(path: Path, error: BaseException | None) -> Path:
    """The file that a refusal names, or else `path`, which was asked for."""
    named = error.filename if isinstance(error, OSError) else None
    return path if named is None else Path(os.fsdecode(named))


def size_on_disk(path: Path) -> int | None:
    """Bytes of a file; None where there is none of that name, StorageError where the system does not say."""
    with unread_errors(path):
        try:
            found = path.stat()
        except OSError as error:
            if error.errno in _NO_FILE:
                return None
            raise
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _way_on(path: Path) -> str:
    """What to do about one that stays as it is, as half a sentence."""
    if sealed := _SEALED_NAME.fullmatch(path.name):
        seal, shard = (path.with_name(f"{sealed[1]}.{kind}") for kind in ("seal.json", "shard"))
        return (
            f"if it stays so, remove {seal} and then {shard} by hand, or leave their root out, and run `sad-pipeline "
            "cache-teacher`, which computes them again"
        )
    if path.suffix == ".shard":
        return (
            "if it stays so, remove it by hand and run `sad-pipeline cache-teacher`, which packs the same sequences "
            "again from the same data"
        )
    return "if it stays so, restore it from a copy, or start a new run directory"
