"""Crashes on demand: count the calls that reach the operating system, and stop at the N-th of them."""

from __future__ import annotations

import errno
import os
import pathlib
from collections.abc import Callable
from typing import IO, Any

import pytest

from pipeline import files

MOST_CALLS = 40  # more than any operation under test makes


class Crash(BaseException):
    """What a killed process looks like from inside: no handler of ordinary errors may catch it."""


class Disk:
    """Stands between pipeline.files and the operating system; every call really happens, until `fail_at`.

    At call number `fail_at` the `failure` is raised; a write is torn then: half of its bytes arrive. With a Crash,
    every later call fails too, as the clean-up of a process that was killed never runs.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int | None, failure: BaseException) -> None:
        self.calls: list[tuple[str, str]] = []
        self._fail_at, self._failure = fail_at, failure
        for owner, name in _CALLS:
            monkeypatch.setattr(owner, name, self._watched(name, getattr(owner, name)))
        real_open = open
        monkeypatch.setattr(files, "open", self._watched_open(real_open), raising=False)

    def step(self, name: str, place: object) -> None:
        """Note a call, or fail instead of making it."""
        dead = isinstance(self._failure, Crash) and self._fail_at is not None and len(self.calls) > self._fail_at
        self.calls.append((name, str(place)))
        if dead or len(self.calls) - 1 == self._fail_at:
            raise self._failure

    def names(self) -> list[str]:
        """The calls made, in order, without their places."""
        return [name for name, _ in self.calls]

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            place = arguments[0]
            if isinstance(place, int):
                place = os.readlink(f"/proc/self/fd/{place}")
            self.step(name, place)
            return real(*arguments, **options)

        return call

    def _watched_open(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, mode: str = "r") -> Any:
            if mode == "rb":
                return real(path, mode)
            self.step("open", path)
            return _WatchedFile(real(path, mode), self)

        return call


class _WatchedFile:
    def __init__(self, file: IO[bytes], disk: Disk) -> None:
        self._file, self._disk = file, disk

    def __enter__(self) -> _WatchedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> int:
        try:
            self._disk.step("write", self._file.name)
        except BaseException:
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            raise
        return self._file.write(data)

    def flush(self) -> None:
        self._disk.step("flush", self._file.name)
        self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()


_CALLS: list[tuple[Any, str]] = [
    (os, "fsync"),
    (os, "replace"),
    (os, "chmod"),
    (pathlib.Path, "mkdir"),
    (pathlib.Path, "rename"),
    (os, "unlink"),
    (os, "rmdir"),
]


def disk_full() -> OSError:
    """What a full disk says."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
