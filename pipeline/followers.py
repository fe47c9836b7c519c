"""Processes that do a part of one command's work: they stop when it says so, and end when it ends.

Nothing that the first process waits for is a lock that another one holds: one may be killed at any instant.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from pipeline import console
from pipeline.errors import MachineError
from pipeline.pause import PausedError, PauseRequest

POLL_SECONDS = 0.2
"""how long the first process may wait for the others before it looks whether it is asked to pause"""
_JOIN_SECONDS = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_Result = TypeVar("_Result")


class _Flag(Protocol):
    value: int


class FollowedPause(PauseRequest):
    """A pause that the first process asks for; signals, time and room are its business."""

    def __init__(self, asked: _Flag) -> None:
        super().__init__()
        self._asked = asked

    def reason(self) -> str | None:
        """Why to pause now, or None."""
        return "a pause was asked for" if self._asked.value else None

    def check(self) -> None:
        """Raise PausedError where a pause is asked for."""
        if (reason := self.reason()) is not None:
            raise PausedError(reason)


class Followers:
    """`count` processes, each begun with `begin(pause, number, *given)`; numbers are from 0. A context manager.

    At its end whatever is still under way is asked to pause, and waited for.
    """

    def __init__(
        self, count: int, setting: str, begin: Callable[..., None], *given: Any, with_the_first: bool = False
    ) -> None:
        """`setting` is the name of what says how many there are, `with_the_first` or without it, for a message."""
        context = multiprocessing.get_context("spawn")
        self.count, self._setting, self._told_count = count, setting, count + with_the_first
        self._asked = context.RawValue("b", 0)
        self._before = set(multiprocessing.active_children())
        self._processes: set[BaseProcess] = set()
        arguments = (self._asked, context.Value("i", 0), begin, given)
        self._pool = ProcessPoolExecutor(count, context, _begin, arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ask_to_pause()
        self._pool.shutdown(wait=False, cancel_futures=True)
        while alive := [process for process in self._processes if process.is_alive()]:
            if any(process.exitcode for process in self._processes):
                self._kill()  # one was killed, and may have held what the others wait for
            alive[0].join(_JOIN_SECONDS)
        self._pool.shutdown()

    def ask_to_pause(self) -> None:
        """Whatever is under way saves or is given up, and ends with PausedError."""
        self._asked.value = 1

    def end_within(self, seconds: float) -> None:
        """Ask to pause, and kill whoever has not ended by then: for work of which nothing is to be saved."""
        self.ask_to_pause()
        timer = threading.Timer(seconds, self._kill)
        timer.daemon = True
        timer.start()

    def submit(self, work: Callable[..., _Result], *arguments: Any) -> Future[_Result]:
        """Let one of them do it, when it is free. MachineError where one was killed."""
        # A process that is begun now is not to end by Ctrl-C before it knows that signals are not its business.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            return self._pool.submit(work, *arguments)
        except BrokenProcessPool as error:
            raise self._was_killed() from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self._processes |= set(multiprocessing.active_children()) - self._before

    def result(self, future: Future[_Result]) -> _Result:
        """What came of it, or what it raised. MachineError where one was killed."""
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise self._was_killed() from error

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()

    def _was_killed(self) -> MachineError:
        return MachineError(
            f"{self._setting}: one of {self._told_count} processes was killed; the system does that where memory runs "
            "out. What is finished stays: run the same command again, with --workers 1 if it happens again."
        )


# ------------------------------------------------------------------ in the other processes


def _begin(asked: _Flag, taken: Any, begin: Callable[..., None], given: tuple[Any, ...]) -> None:
    """The first process alone is asked to stop, and shows progress."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_leave_with_the_first, daemon=True).start()
    console.be_quiet()
    with taken.get_lock():
        own_number = taken.value
        taken.value += 1
    begin(FollowedPause(asked), own_number, *given)


def _leave_with_the_first() -> None:
    """A second signal ends the first process at once, and what it began ends with it."""
    first = multiprocessing.parent_process()
    if first is not None:
        first.join()
        os._exit(1)
