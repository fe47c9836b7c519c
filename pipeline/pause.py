"""When to stop and come back later: a signal, or a time budget that is nearly spent."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from types import FrameType, TracebackType
from typing import Self

from pipeline.console import say

_PROCESS_START = time.monotonic()
_MARGIN = 1.2
REMEMBERED_UNITS = 1024  # training steps: enough to remember the last one with a validation
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class PausedError(Exception):
    """Raised in the middle of a unit of work that is given up for a pause; its message is the reason."""


class PauseRequest:
    """Collects reasons to pause; the loop asks `reason()` between units of work.

    The first SIGINT or SIGTERM asks for a clean pause, a second one leaves at once. With a `time_budget_seconds`
    (counted from the start of the process), a pause is due when the time left is under the slowest recent unit of
    work plus the slowest save, with a margin of a fifth.
    """

    def __init__(self, time_budget_seconds: float | None = None) -> None:
        self._deadline = None if time_budget_seconds is None else _PROCESS_START + time_budget_seconds
        self._signal: str | None = None
        self._units: deque[float] = deque(maxlen=REMEMBERED_UNITS)
        self._save_seconds = 0.0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def note_unit(self, seconds: float) -> None:
        """Remember how long a unit of work took."""
        self._units.append(seconds)

    def note_save(self, seconds: float) -> None:
        """Remember how long it took to make the work durable."""
        self._save_seconds = max(self._save_seconds, seconds)

    def reason(self) -> str | None:
        """Why to pause now, or None."""
        if self._signal is not None:
            return self._signal
        if self._deadline is None:
            return None
        needed = _MARGIN * (max(self._units, default=0.0) + self._save_seconds)
        return "the time budget is nearly spent" if time.monotonic() + needed >= self._deadline else None

    def check(self) -> None:
        """Raise PausedError where a signal has come or the budget is spent to the last; for use inside a long unit of
        work, which is then given up."""
        if self._signal is not None:
            raise PausedError(self._signal)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise PausedError("the time budget is spent")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            os._exit(128 + number)
        with contextlib.suppress(RuntimeError):  # it may have come in the middle of another word to stderr
            say("\npausing as soon as what is under way can be left; once more leaves at once")
        self._signal = f"{signal.Signals(number).name} was received"
