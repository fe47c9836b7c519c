"""When to stop and come back later: a signal, a time budget that is nearly spent, no room for what comes next."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from types import FrameType, TracebackType
from typing import Literal, Self

from pipeline.console import format_seconds, say
from pipeline.errors import ConfigError
from pipeline.output_limit import OutputLimit

_PROCESS_START = time.monotonic()
_MARGIN = 1.2
_NEAR_THE_START = 0.05  # of the budget: a session's first command has no less of it than this one had
REMEMBERED_UNITS = 1024  # training steps, or shards
SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""what asks for a pause"""
_ONE_SIGNAL_SECONDS = 0.3  # the same one so soon again was sent to the process and to its group, or handed on twice
WaitsFor = Literal["room", "memory"]
"""what somebody must see to before the same command gets on: room on disk, or memory of the card"""


class PausedError(Exception):
    """Raised in the middle of a unit of work that is given up for a pause; its message is the reason."""

    waits_for: WaitsFor | None = None
    """None where the same command gets on by itself"""


class NoRoomError(PausedError):
    """Raised before work whose result would not fit, within the limit or on the disk."""

    waits_for = "room"


class NoMemoryError(PausedError):
    """Raised where the card had no memory for work of a size that is planned."""

    waits_for = "memory"


class PauseRequest:
    """Collects reasons to pause; the loop asks `reason()` between units of work.

    The first SIGINT or SIGTERM asks for a clean pause, a second one leaves at once; one that arrives twice in the same
    instant is one. With a `time_budget_seconds`, a pause is due when the time left is under the slowest recent unit of
    work, plus what was measured beside units (a validation), plus the slowest save, with a margin of a fifth. The
    budget counts from the start of the process, or of a session that had lasted `session_age_seconds` by then.
    `output` says how much there may be on disk; whoever is about to write asks it.
    """

    def __init__(
        self,
        time_budget_seconds: float | None = None,
        session_age_seconds: float = 0.0,
        output: OutputLimit | None = None,
    ) -> None:
        self.output = OutputLimit() if output is None else output
        self._budget_seconds, self._session_age_seconds = time_budget_seconds, session_age_seconds
        self._signal: str | None = None
        self._first_signal = (0, 0.0)  # its number, and when it came
        self._units: deque[float] = deque(maxlen=REMEMBERED_UNITS)
        self._got_on = False
        self._beside_seconds = self._save_seconds = self._guessed_save_seconds = 0.0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
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
        self.note_progress()

    def note_progress(self) -> None:
        """Remember that something was done in this start which a later one need not do again."""
        self._got_on = True

    def note_beside(self, seconds: float) -> None:
        """Remember how long that took which is done now and then after a unit, however long ago."""
        self._beside_seconds = max(self._beside_seconds, seconds)

    def note_save(self, seconds: float) -> None:
        """Remember how long it took to make the work durable."""
        self._save_seconds = max(self._save_seconds, seconds)

    def guess_save(self, seconds: float) -> None:
        """What that is taken to be until it was measured."""
        self._guessed_save_seconds = seconds

    def reason(self) -> str | None:
        """Why to pause now, or None."""
        if self._signal is not None:
            return self._signal
        if self._budget_seconds is None:
            return None
        left = self._left_seconds(self._budget_seconds)
        save_seconds = self._save_seconds or self._guessed_save_seconds
        needed = _MARGIN * (max(self._units, default=0.0) + self._beside_seconds + save_seconds)
        if left > needed:
            return None
        return (
            f"the time budget is nearly spent: of {format_seconds(self._budget_seconds)} "
            f"{format_seconds(max(0.0, left))} are left, and the next piece of work with its save may take "
            f"{format_seconds(needed)}"
        )

    def check(self) -> None:
        """Raise PausedError where a signal has come or the budget is spent to the last; for use inside a long unit of
        work, which is then given up."""
        if self._signal is not None:
            raise PausedError(self._signal)
        if self._budget_seconds is not None and self._left_seconds(self._budget_seconds) <= 0:
            raise PausedError(f"the time budget is spent: {format_seconds(self._budget_seconds)}")

    def check_beginning(self) -> None:
        """Raise PausedError where nothing should be begun: a signal has come, or a session that is older than this
        process has no time left. A budget of the process alone lets each start do a unit, so that every one gets on;
        one that is over before that is `in_vain`.
        """
        if (self._signal is not None or self._session_age_seconds) and (reason := self.reason()):
            raise PausedError(reason)

    def in_vain(self) -> str | None:
        """The budget, in words, where all of it was over before this start had got on with anything: the next start
        would not, either. None where that is not so, also in a session that had lasted for a while: the next one may
        have more time.
        """
        if self._budget_seconds is None or self._got_on or self._signal is not None:
            return None
        late = self._session_age_seconds > _NEAR_THE_START * self._budget_seconds
        if late or self._left_seconds(self._budget_seconds) > 0:
            return None
        since = "session" if self.in_session else "command"
        return f"{format_seconds(self._budget_seconds)} are allowed from the start of this {since}"

    def refuse_in_vain(self, stop: PausedError, too_long: str, otherwise: str) -> None:
        """ConfigError where each start would end as this one has, before it got on: that would look like a pause.

        `too_long` says what the budget is too short for and what is kept of it, `otherwise` what helps beside a longer
        one.
        """
        if stop.waits_for is None and (budget := self.in_vain()):
            raise ConfigError(
                f"session.time_budget_hours: {budget}, and {too_long}, so that the same command would never get on. "
                f"Raise session.time_budget_hours (--time-budget), or {otherwise}."
            ) from stop

    @property
    def in_session(self) -> bool:
        """Whether the budget is one of a session that is older than this process."""
        return self._session_age_seconds > 0

    def _left_seconds(self, budget_seconds: float) -> float:
        return budget_seconds - self._session_age_seconds - process_seconds()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        first, came = self._first_signal
        if self._signal is not None:
            if number == first and time.monotonic() - came < _ONE_SIGNAL_SECONDS:
                return
            os._exit(128 + number)
        self._first_signal = (number, time.monotonic())
        self._signal = f"{signal.Signals(number).name} was received"  # first of all: what is said may fail
        with contextlib.suppress(RuntimeError):  # it may have come in the middle of another word to stderr
            say("\npausing as soon as what is under way can be left; once more leaves at once")


def process_seconds() -> float:
    """How long this process has run."""
    return time.monotonic() - _PROCESS_START
