"""Stands between the product and the operating system: sees every call that changes the disk below one folder.

It sits under Python's own file objects, so that what is seen is what the system would be asked for: one write a buffer,
wherever it comes from. What libraries write by other ways (safetensors and tokenizers do, in Rust) is noticed at the
next call. An fsync is seen and not carried out: what it means is the business of volume.py.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from pipeline import files
from tests.reliability.volume import Operation, Tree, Volume

_REAL_OPEN = io.open
_REAL = {name: getattr(os, name) for name in ("open", "fsync", "lstat", "scandir")}
_OF_ONE_PATH = ("mkdir", "rmdir", "unlink", "remove", "chmod")
_OF_TWO_PATHS = ("rename", "replace")
_UNUSED = ("link", "symlink", "truncate", "ftruncate", "write", "pwrite", "sendfile", "copy_file_range", "mknod")
_KINDS = {"remove": "unlink", "replace": "rename"}

Before = Callable[[Operation], int | None]
"""Told of a call before it is made; may raise instead of it, or say how many bytes of a write are let through"""


class Shim:
    """Every operation below `root`, in order; `volume` is what they make of it."""

    def __init__(self, root: Path, tree: Tree | None = None, before: Before | None = None) -> None:
        self.root = str(root)
        self.volume = Volume(tree)
        self.operations: list[Operation] = []
        self.before = before

    @contextlib.contextmanager
    def at_work(self) -> Iterator[Shim]:
        """In the block every call goes through here."""
        with contextlib.ExitStack() as stack:
            for name in _OF_ONE_PATH:
                stack.enter_context(mock.patch.object(os, name, self._of_one_path(name)))
            for name in _OF_TWO_PATHS:
                stack.enter_context(mock.patch.object(os, name, self._of_two_paths(name)))
            for name in _UNUSED:
                stack.enter_context(mock.patch.object(os, name, self._unused(name)))
            stack.enter_context(mock.patch.object(os, "fsync", self._fsync))
            stack.enter_context(mock.patch.object(os, "open", self._os_open))
            stack.enter_context(mock.patch.object(builtins, "open", self._open))
            stack.enter_context(mock.patch.object(io, "open", self._open))
            stack.enter_context(mock.patch.object(files, "ctypes", _Ctypes(self)))
            yield self
            self._notice_foreign_files()

    def call(self, operation: Operation, real: Callable[[], Any]) -> Any:
        """Make one call, unless `before` raises instead."""
        self._announce(operation)
        result = real()
        self._note(operation)
        return result

    def write(self, path: str, offset: int, data: bytes, real: Callable[[bytes], int]) -> int:
        """Write all of it, or what `before` lets through."""
        let_through = self._announce(Operation("write", path, offset=offset, data=data))
        written = real(data[:let_through])
        self._note(Operation("write", path, offset=offset, data=data[:written]))
        return written

    def below(self, path: Any, dir_fd: int | None = None) -> str | None:
        """A path as it is called below the root; None for what is elsewhere."""
        if isinstance(path, int):
            text = os.readlink(f"/proc/self/fd/{path}")
        else:
            text = os.fsdecode(path)
            if dir_fd is not None:
                text = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), text)
        text = os.path.abspath(text)
        if text == self.root:
            return ""
        return text[len(self.root) + 1 :] if text.startswith(self.root + "/") else None

    def _announce(self, operation: Operation) -> int | None:
        self._notice_foreign_files()
        return self.before(operation) if self.before is not None else None

    def _note(self, operation: Operation) -> None:
        self.operations.append(operation)
        self.volume.apply(operation)

    # -------------------------------------------------------------- calls

    def _of_one_path(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def called(path: Any, *args: Any, **options: Any) -> Any:
            place = self.below(path, options.get("dir_fd"))
            if place is None:
                return real(path, *args, **options)
            return self.call(Operation(_KINDS.get(name, name), place), lambda: real(path, *args, **options))

        return called

    def _of_two_paths(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def called(source: Any, target: Any, **options: Any) -> Any:
            one, other = self.below(source), self.below(target)
            if one is None or other is None:
                assert one is other, f"{name} {source} -> {target}: into or out of {self.root}"
                return real(source, target, **options)
            return self.call(Operation("rename", one, other), lambda: real(source, target, **options))

        return called

    def _unused(self, name: str) -> Callable[..., Any]:
        """A call that nothing makes today: who makes it must teach it to the shim."""
        real = getattr(os, name)

        def called(path: Any, *args: Any, **options: Any) -> Any:
            place = self.below(path, options.get("dir_fd"))
            in_a_lock = place is not None and place.endswith("/.lock")  # who holds it: a word that need not last
            assert place is None or in_a_lock, f"os.{name} {place}: not known to {__name__}"
            return real(path, *args, **options)

        return called

    def _fsync(self, descriptor: int) -> None:
        place = self.below(descriptor)
        if place is None:
            return _REAL["fsync"](descriptor)
        return self.call(Operation("fsync", place), lambda: None)

    def _os_open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> Any:
        place = self.below(path, dir_fd)

        def real() -> Any:
            return _REAL["open"](path, flags, mode, dir_fd=dir_fd)

        if place is None:
            return real()
        if not flags & (os.O_WRONLY | os.O_RDWR):
            return self._opened("open to sync", place, real)  # or to lock, or to look for what is below
        assert not flags & os.O_TRUNC, path
        if not flags & os.O_CREAT or self.volume.find(place) is not None:
            return self._opened("open to write", place, real)
        return self.call(Operation("create", place), real)

    def _open(self, path: Any, mode: str = "r", buffering: int = -1, *args: Any, **options: Any) -> Any:
        place = None if isinstance(path, int) else self.below(path)
        if place is None:
            return _REAL_OPEN(path, mode, buffering, *args, **options)
        if not set(mode) & set("wax+"):
            return self._opened("open to read", place, lambda: _REAL_OPEN(path, mode, buffering, *args, **options))
        assert buffering == -1, f"{path}: opened with a buffer of its own"
        if self.volume.find(place) is None:
            raw = self.call(Operation("create", place), lambda: _WatchedFile(self, path, mode))
        elif "w" in mode:
            raw = self.call(Operation("truncate", place), lambda: _WatchedFile(self, path, mode))
        else:
            raw = self._opened("open to write", place, lambda: _WatchedFile(self, path, mode))
        file: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return file if "b" in mode else io.TextIOWrapper(file, *args, **options)

    def _opened(self, kind: str, place: str, real: Callable[[], Any]) -> Any:
        """Opened without a change; that too may fail."""
        self._announce(Operation(kind, place))
        return real()

    def exchange(self, one: bytes, other: bytes, real: Callable[[], int]) -> int:
        """renameat2, which says by its result that it cannot."""
        places = self.below(one), self.below(other)
        assert places[0] is not None
        assert places[1] is not None
        operation = Operation("exchange", *places)
        try:
            self._announce(operation)
        except OSError:
            return -1
        result = real()
        if result == 0:
            self._note(operation)
        return result

    # -------------------------------------------------------------- what is written by other ways

    def _notice_foreign_files(self) -> None:
        """Files that appeared in a folder that is being filled; each counts as created and written in one piece."""
        for path in self._being_filled():
            for parent, _, names in os.walk(os.path.join(self.root, path)):
                for name in sorted(names):
                    place = self.below(os.path.join(parent, name))
                    assert place is not None
                    if self.volume.find(place) is None:
                        with _REAL_OPEN(os.path.join(parent, name), "rb") as file:
                            content = file.read()
                        self._note(Operation("create", place))
                        self._note(Operation("write", place, data=content))

    def _being_filled(self) -> list[str]:
        return [
            path
            for path, content in self.volume.tree().items()
            if content is None and path.endswith(files.TEMPORARY_SUFFIX)
        ]


class _WatchedFile(io.FileIO):
    """What Python's buffers write to."""

    def __init__(self, shim: Shim, path: Any, mode: str) -> None:
        super().__init__(path, mode.replace("b", "").replace("t", ""))
        place = shim.below(path)
        assert place is not None
        self._shim, self._place, self._appends = shim, place, "a" in mode

    def write(self, data: Any) -> int:
        """One write of the system's."""
        offset = os.fstat(self.fileno()).st_size if self._appends else self.tell()
        return self._shim.write(self._place, offset, bytes(data), super().write)

    def truncate(self, size: int | None = None) -> int:
        """Nothing truncates an open file today."""
        raise AssertionError(f"{self._place}: truncated to {size}; not known to {__name__}")


class _Ctypes:
    """What files.py takes from ctypes."""

    def __init__(self, shim: Shim) -> None:
        self._shim = shim

    def CDLL(self, name: None) -> Any:  # noqa: N802 - as it is called there
        """The C library, its renameat2 watched."""
        library = ctypes.CDLL(name)
        real = getattr(library, "renameat2", None)

        class Library:
            def renameat2(_, folder: int, one: bytes, other_folder: int, other: bytes, flags: int) -> int:  # noqa: N805
                if real is None:
                    return -1
                return self._shim.exchange(one, other, lambda: int(real(folder, one, other_folder, other, flags)))

        return Library()
