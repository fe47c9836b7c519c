"""Files of text as they lie: plain, or packed with gzip, which the end of the name says."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

Unpacked = io.BufferedReader | gzip.GzipFile
_OTHERS = (".zst", ".xz", ".bz2", ".lz4", ".zip")
_DAMAGE = (gzip.BadGzipFile, EOFError, zlib.error)
READING_ERRORS = (OSError, EOFError, zlib.error)
"""What reading a file that `open_unpacked` opened may raise; `words_of` says what it means"""


def open_unpacked(path: Path) -> Unpacked:
    """The bytes of a file, unpacked on the way where it is a .gz; an archive (.tar.gz) is not one text, and stays."""
    if path.suffix == ".gz" and not path.name.endswith(".tar.gz"):
        return gzip.open(path, "rb")
    return open(path, "rb")


def packed_otherwise(path: Path) -> str | None:
    """Why a file cannot be read that is packed in another way than with gzip."""
    if path.suffix not in _OTHERS:
        return None
    return f"is packed in a way that is not read here ({path.suffix}); unpack it, or pack it with gzip"


def words_of(error: OSError | EOFError | zlib.error) -> str:
    """What is wrong with a file."""
    if isinstance(error, _DAMAGE):
        return f"is a damaged gzip file ({error})"
    assert isinstance(error, OSError)
    return f"cannot be read ({error.strerror})"


def size_unpacked(path: Path) -> int:
    """Bytes of a file, unpacked; 0 where it cannot be read, which reading it says."""
    try:
        with open_unpacked(path) as file:
            if not isinstance(file, gzip.GzipFile):
                return path.stat().st_size
            return sum(len(block) for block in iter(lambda: file.read(2**20), b""))
    except READING_ERRORS:
        return 0
