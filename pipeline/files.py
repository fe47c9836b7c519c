"""The one door to disk: every byte that must last is written here.

A file written here is whole or absent: temporary name in the same folder, write, flush, fsync, read back by name and
hash, rename, fsync the folder. A temporary file carries an advisory lock while it is written, so a sweep can tell the
remains of a crash from the work of a living process. Modes follow the umask: 0644 for files under the usual one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipeline import lock_signature
from pipeline.errors import DamagedDataError, StorageError
from pipeline.refusals import storage_errors
from pipeline.strict_json import load_json

TEMPORARY_SUFFIX = ".tmp"
MAX_JSON_BYTES = 64 * 2**20
UNTRUSTED = "the disk is not to be trusted. Copy the run to another, `sad-pipeline verify` it, and go on there"
_READ_BYTES = 4 * 2**20
_TEMPORARY_NAME = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2


@dataclass(frozen=True, slots=True)
class FileDigest:
    """Size and xxh3-128 of a file's bytes."""

    size_bytes: int
    xxh3_128: str


# ------------------------------------------------------------------ writing


def write_file(path: Path, content: bytes | Callable[[IO[bytes]], FileDigest | None]) -> FileDigest:
    """Write `path` whole or not at all, durably, and return the digest of the bytes read back.

    `content` is the bytes, or a function that writes them to the open file it is given, and may say what they are.
    """
    with storage_errors(path):
        make_folder(path.parent)
        temporary = _temporary_name(path)
        try:
            with open(temporary, "x+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if not temporary.exists():  # a sweep took it in the instant before it was locked
                    return write_file(path, content)
                written = content(file) if callable(content) else digest_bytes(content)
                if not callable(content):
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())
                digest = digest_file(temporary)
                if written not in (None, digest):
                    raise DamagedDataError(f"{path}: the bytes read back differ from the bytes written; {UNTRUSTED}")
                os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)
    return digest


def write_json(path: Path, value: Any) -> FileDigest:
    """Write `value` as readable JSON with sorted keys; NaN and infinities are refused."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    # A file name that is not UTF-8 reaches us with lone surrogates; written as \udcXX they are JSON and come back.
    return write_file(path, text.encode("utf-8", "backslashreplace") + b"\n")


def publish_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Replace folder `path` by one that `fill` writes into a temporary sibling; readers see the old or the new.

    Old and new change places in one step where the file system can; elsewhere (overlay and network file systems) the
    name is absent for the instant between two renames.
    """
    with storage_errors(path):
        make_folder(path.parent)
        sweep_temporary(path.parent)
        with _locked_folder(path) as staging:
            try:
                fill(staging)
                _make_durable(staging)
                _put_in_place(staging, path)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
        sync_folder(path.parent)
        shutil.rmtree(staging, ignore_errors=True)  # by now the old folder, if there was one


def append_lines(path: Path, lines: list[str]) -> None:
    """Append whole lines; durable only after `sync_file`, because a log line is not worth an fsync."""
    with storage_errors(path):
        make_folder(path.parent)
        with open(path, "ab") as file:
            file.write("".join(f"{line}\n" for line in lines).encode())


def sync_file(path: Path) -> None:
    """Make what was appended to `path` durable."""
    with storage_errors(path):
        _sync_path(path)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, durably."""
    if path.is_dir():
        return
    with storage_errors(path):
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def remove_file(path: Path) -> None:
    """Remove a file, durably; absent is fine."""
    with storage_errors(path), contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder and all in it, whole or not at all under its own name; absent is fine."""
    if path.is_dir():
        with storage_errors(path):
            sweep_temporary(path.parent)
            retired = _temporary_name(path)
            path.rename(retired)
            sync_folder(path.parent)
            shutil.rmtree(retired)


def sync_folder(path: Path) -> None:
    """Make names created, renamed or removed in a folder durable."""
    _sync_path(path)


def sweep_temporary(folder: Path) -> list[Path]:
    """Remove what crashed writers left in `folder`; what a living writer still locks is kept."""
    removed = []
    left = [path for path in folder.iterdir() if _TEMPORARY_NAME.fullmatch(path.name)] if folder.is_dir() else []
    for path in sorted(left):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed.append(path)
            finally:
                os.close(descriptor)
    return removed


@contextlib.contextmanager
def hold_lock(path: Path, purpose: str) -> Iterator[None]:
    """Hold the advisory lock on `path` (created if absent) or raise StorageError that says who holds it."""
    with storage_errors(path):
        if path.is_dir():
            descriptor = os.open(path, os.O_RDONLY)
        else:
            make_folder(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            with storage_errors(path):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if (holder := lock_signature.told(descriptor)) is not None:
                raise StorageError(
                    f"{path}: another process is already {purpose}. Wait for it, or stop it, then run this command "
                    f"again.{holder}"
                ) from None
        with lock_signature.signed(descriptor):
            yield
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------ reading


def read_bytes(path: Path, max_bytes: int | None = None) -> bytes:
    """Read a whole file, refusing one larger than `max_bytes` before any of it is in memory."""
    size_bytes = path.stat().st_size
    if not path.is_file():
        raise DamagedDataError(f"{path}: is not a file; a pipe or a device would be read without end")
    if max_bytes is not None and size_bytes > max_bytes:
        raise DamagedDataError(f"{path}: {size_bytes:,} bytes where at most {max_bytes:,} were expected")
    return path.read_bytes()


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON object; duplicate keys, NaN, infinities, deep nesting and anything but an object are damage."""
    try:
        value = load_json(read_bytes(path, max_bytes))
    except (ValueError, RecursionError) as error:
        raise DamagedDataError(f"{path}: is not the JSON object it should be ({error})") from error
    if not isinstance(value, dict):
        raise DamagedDataError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def canonical_json(value: Any) -> bytes:
    """The one byte string of a JSON value: sorted keys, no spaces, ASCII, finite numbers. What hashes are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def digest_bytes(data: bytes) -> FileDigest:
    """Size and xxh3-128 of bytes in memory."""
    return FileDigest(len(data), new_hasher(data).hexdigest())


def digest_json(value: Any) -> str:
    """xxh3-128 of a JSON value: kept beside it in a file, it shows that no digit of it has changed unnoticed."""
    return digest_bytes(canonical_json(value)).xxh3_128


def digest_file(path: Path) -> FileDigest:
    """Size and xxh3-128 of a file, read in pieces."""
    hasher, size_bytes = new_hasher(), 0
    with open(path, "rb") as file:
        while block := file.read(_READ_BYTES):
            hasher.update(block)
            size_bytes += len(block)
    return FileDigest(size_bytes, hasher.hexdigest())


def new_hasher(data: bytes = b"") -> Any:
    """What takes the xxh3-128 of bytes that come in pieces."""
    import xxhash  # here, so that a command begins without it and can say that it is missing

    return xxhash.xxh3_128(data)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file: for identities that outlive this project's own files, such as model weights."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _temporary_name(path: Path) -> Path:
    return path.parent / f".{path.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}"


@contextlib.contextmanager
def _locked_folder(path: Path) -> Iterator[Path]:
    """A new temporary sibling of `path`, with its advisory lock held."""
    staging = _temporary_name(path)
    staging.mkdir()
    descriptor = None
    try:
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if staging.is_dir():
            yield staging
            return
    finally:
        if descriptor is not None:
            os.close(descriptor)
    with _locked_folder(path) as other:  # a sweep took it in the instant before it was locked
        yield other


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_durable(folder: Path) -> None:
    """Flush every file and folder below; files some libraries make private get the mode the umask asks for."""
    mode = folder.stat().st_mode & 0o666
    for parent, _, names in os.walk(folder):
        for name in names:
            os.chmod(Path(parent) / name, mode)
            _sync_path(Path(parent) / name)
        _sync_path(Path(parent))


def _put_in_place(staging: Path, path: Path) -> None:
    """Give `staging` the name `path`; what had that name is then called `staging`, or gone if there was nothing."""
    if not path.exists():
        staging.rename(path)
    elif not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(path))
    elif not _exchange(staging, path):
        retired = _temporary_name(path)
        path.rename(retired)
        try:
            staging.rename(path)
        except BaseException:
            retired.rename(path)
            raise
        retired.rename(staging)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where this system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and rename(_AT_FDCWD, bytes(one), _AT_FDCWD, bytes(other), _RENAME_EXCHANGE) == 0
