"""Processes that do a part of one command's work: they stop when it says so, and end when it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.synchronize import Event

from pipeline import console
from pipeline.pause import PausedError, PauseRequest


class FollowedPause(PauseRequest):
    """A pause that the first process asks for; signals, time and room are its business."""

    def __init__(self, asked: Event) -> None:
        super().__init__()
        self._asked = asked

    def reason(self) -> str | None:
        """Why to pause now, or None."""
        return "a pause was asked for" if self._asked.is_set() else None

    def check(self) -> None:
        """Raise PausedError where a pause is asked for."""
        if (reason := self.reason()) is not None:
            raise PausedError(reason)


def follow() -> None:
    """Make this process a follower of the one that began it, which alone is asked to stop and shows progress."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_leave_with_the_first, daemon=True).start()
    console.be_quiet()


def _leave_with_the_first() -> None:
    """A second signal ends the first process at once, and what it began ends with it."""
    first = multiprocessing.parent_process()
    if first is not None:
        first.join()
        os._exit(1)
