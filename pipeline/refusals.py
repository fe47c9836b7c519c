"""What the operating system refuses, said in words: StorageError with the place and the next step."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import StorageError

_NEXT_STEPS = {
    "the disk is full": "What is sealed is safe; free some space and run the same command again.",
    "cannot be written": "Work on a copy in a folder that can be, or choose another with --run-dir.",
    "a file stands where a folder is needed": "Move it away, or choose another --run-dir.",
    "a folder stands where a file is needed": "Move it away, or choose another --run-dir.",
    "too many files are open": "Allow more of them (ulimit -n 4096) and run the same command again.",
    "the file system cannot do what a run needs": "It must lock files and sync folders; take a local disk: --run-dir.",
    "the file system is not there any more": "Mount it again, and run the same command again.",
    "the disk failed": "Copy what is sealed to another disk, check it with `sad-pipeline verify`, and go on there.",
}
_REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk is full",
    errno.EFBIG: "the disk is full",
    errno.EROFS: "cannot be written",
    errno.EACCES: "cannot be written",
    errno.EPERM: "cannot be written",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EISDIR: "a folder stands where a file is needed",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open",
    errno.ENOLCK: "the file system cannot do what a run needs",
    errno.EOPNOTSUPP: "the file system cannot do what a run needs",
    errno.ENOSYS: "the file system cannot do what a run needs",
    errno.EINVAL: "the file system cannot do what a run needs",
    errno.ENOTCONN: "the file system is not there any more",
    errno.ESTALE: "the file system is not there any more",
    errno.EIO: "the disk failed",
}
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
_OF_READING = (*TOO_MANY_FILES, errno.EIO)
# safetensors and tokenizers are written in Rust and raise the system's refusals under classes of their own.
_RUST_REFUSAL = re.compile(r"\(os error (\d+)\)")


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into StorageError with the place and the next step; pass on the rest."""
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number not in _REFUSALS:
            raise
        what = _REFUSALS[number]
        raise StorageError(f"{path}: {what} ({os.strerror(number)}). {_NEXT_STEPS[what]}") from error


@contextlib.contextmanager
def reading_errors(folder: Path) -> Iterator[None]:
    """The same for what is only read, below `folder` where the refusal names no place; a missing file is passed on."""
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_READING:
            raise
        with storage_errors(folder if error.filename is None else Path(error.filename)):
            raise


@contextlib.contextmanager
def refused_unread(path: Path) -> Iterator[None]:
    """The same for what must not be passed over, whatever refuses it; `path` is what to move away to go on without."""
    try:
        with reading_errors(path):
            yield
    except FileNotFoundError:
        raise
    except OSError as error:
        place = path if error.filename is None else error.filename
        raise cannot_be_read_now(place, error, f"to go on without it, move {path} away.") from error


def cannot_be_read_now(place: Path | str, error: OSError, way_on: str) -> StorageError:
    """What is said of a file that may be whole; `way_on` is half a sentence, for where it stays so."""
    return StorageError(
        f"{place}: cannot be read now ({error.strerror}), and may be whole. Run the same command again once it can be "
        f"read; {way_on}"
    )


def is_of_too_many_files(error: BaseException) -> bool:
    """Whether an error, or the one it came of, is that too many files are open: it says nothing of the file."""
    causes = (error, error.__cause__)
    return any(isinstance(cause, Exception) and _error_number(cause) in TOO_MANY_FILES for cause in causes)


def _error_number(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    found = _RUST_REFUSAL.search(str(error))
    return int(found.group(1)) if found else None
