"""All that lies below a folder. os.walk by itself leaves out without a word what it cannot list."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.errors import StorageError
from pipeline.refusals import TOO_MANY_FILES, storage_errors

_OF_THE_FILE_SYSTEM = "lost+found"  # for root alone, at the top of a disk


def refuse_unlisted(error: OSError) -> None:
    """StorageError for a folder that cannot be listed: what it holds would count as absent."""
    place = Path(os.fsdecode(error.filename))
    if error.errno in TOO_MANY_FILES:
        with storage_errors(place):
            raise error
    raise StorageError(
        f"{place}: this folder cannot be listed now ({error.strerror}), so what it holds would count as absent. Run "
        "the same command again once it can be, or move it to where nothing is looked for"
    ) from error


def walk(
    folder: Path, unlisted: Callable[[OSError], None] = refuse_unlisted
) -> Iterator[tuple[str, list[str], list[str]]]:
    """What os.walk gives; `unlisted` is told of what cannot be listed. A folder that is not there holds nothing."""

    def told(error: OSError) -> None:
        if error.filename is None:
            error.filename = str(folder)
        gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        if not gone and os.path.basename(os.fsdecode(error.filename)) != _OF_THE_FILE_SYSTEM:
            unlisted(error)

    return os.walk(folder, onerror=told)
