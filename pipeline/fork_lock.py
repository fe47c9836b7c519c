"""A lock between threads that survives a fork."""

from __future__ import annotations

import os
import threading
from typing import Any


class ForkLock:
    """Taken by `with`; a forked process has one of its own, since a thread that is not there may hold the old one.

    By way of pickle it arrives as a new lock.
    """

    def __init__(self) -> None:
        self._lock, self._process = threading.Lock(), os.getpid()

    def __enter__(self) -> None:
        if self._process != os.getpid():
            self._lock, self._process = threading.Lock(), os.getpid()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return ForkLock, ()
