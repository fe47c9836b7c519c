"""A process in which nothing but reading below some roots is allowed, within bounds of memory and time.

An audit hook cannot be removed, so what it watches runs in a child of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.stages.toys import PRELOADED, REPOSITORY

SECONDS = 4.0
"""Of this process's own time, that one point may take: a hundred times what most do"""
MORE_BYTES = 3 * 2**30
"""Of addresses beyond those that the imports take"""
PEAK_BYTES = 2**29
"""Of memory really used beyond that"""
_NEVER = ("subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "socket.", "ctypes.dlopen")
_NEVER_ALONE = ("pickle.find_class", "shutil.rmtree", "os.remove", "os.rename", "os.chmod", "os.kill")
_CODE = tuple(str(Path(place).resolve()) for place in {sys.prefix, sys.base_prefix, REPOSITORY, "/proc/self"})


class TooSlow(BaseException):
    """A point has used up its time; nothing that catches errors catches this."""


class Watch:
    """Notes every event that is not allowed while it is on."""

    def __init__(self, roots: list[Path]) -> None:
        self.roots = tuple(f"{os.path.realpath(root)}{os.sep}" for root in roots)
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.fsdecode(arguments[0])) + os.sep
            writes = isinstance(arguments[1], str) and not set(arguments[1]) <= set("rbt")
            code = path.startswith(_CODE) and not writes
            if not code and (writes or not path.startswith(self.roots)):
                self.seen.append(f"open {path} {arguments[1]}")
        elif event == "exec" and not os.path.realpath(arguments[0].co_filename).startswith((*_CODE, "<frozen")):
            if not arguments[0].co_filename.startswith("<"):
                self.seen.append(f"exec {arguments[0].co_filename}")
        elif event.startswith(_NEVER) or event in _NEVER_ALONE:
            self.seen.append(f"{event} {arguments!r:.200}")


def in_child(task: Callable[..., dict[str, Any]], answer: Path, *arguments: Any) -> dict[str, Any]:
    """What `task` returned in a child with these arguments; its failure, with its words, is ours."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_run, args=(task, str(answer), arguments))
    process.start()
    process.join(540)
    if process.is_alive():
        process.kill()
    process.join()
    assert answer.is_file(), f"the child ended with {process.exitcode}, and said nothing"
    found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    assert "failure" not in found, found["failure"]
    return found


def _run(task: Callable[..., dict[str, Any]], answer: str, arguments: tuple[Any, ...]) -> None:
    try:
        found = task(*arguments)
    except BaseException:
        found = {"failure": traceback.format_exc()}
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


class Bounds:
    """Limits of memory and time, from now on."""

    def __init__(self) -> None:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + MORE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        self._peak = _peak_bytes()
        signal.signal(signal.SIGPROF, self._too_slow)

    def start(self) -> None:
        """The time of a point begins."""
        signal.setitimer(signal.ITIMER_PROF, SECONDS)

    def stop(self) -> None:
        """And ends; its memory is looked at."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        grown = _peak_bytes() - self._peak
        assert grown < PEAK_BYTES, f"{grown:,} bytes of memory"

    @staticmethod
    def _too_slow(*_: object) -> None:
        raise TooSlow(f"more than {SECONDS} seconds")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
