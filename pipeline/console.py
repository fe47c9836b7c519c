"""What people see while the work goes on: all of it on stderr, so that stdout stays free for results.

At a terminal progress is a live bar; in a batch log it is one line every 30 seconds.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import time
from collections import deque
from types import TracebackType
from typing import Any, Self

LINE_SECONDS = 30.0
_BAR_SECONDS = 0.2
_BAR_WIDTH = 24
_said: set[str] = set()
_live_line = False
_quiet = False


def be_quiet() -> None:
    """From here on this process prints warnings only; another one shows progress."""
    global _quiet
    _quiet = True


def say(text: str) -> None:
    """One line, or several, on stderr."""
    if not _quiet:
        _say(text)


def warn_once(text: str) -> None:
    """Say once per process that something is skipped, approximated, or falls back."""
    if text not in _said:
        _said.add(text)
        _say(f"note: {text}")


def format_seconds(seconds: float) -> str:
    """41 s, 3 min 05 s, 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_bytes(num_bytes: float) -> str:
    """812 bytes, 4.1 MB, 1.25 GB: powers of ten."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= 0.9995 * size:  # what would round to 1,000 of a unit is 1 of the next
            count = num_bytes / size
            return f"{count:.3g} {unit}" if count < 999.5 else f"{count:,.0f} {unit}"
    return f"{num_bytes:.0f} bytes"


class Progress:
    """Progress of one piece of work, with its recent rate and the time left.

    Use as a context manager; call `advance` as units get done. `unit` names what is counted ("tokens").
    """

    def __init__(self, title: str, total: int, unit: str, done: int = 0) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self._before = done
        self._terminal = not sys.stderr.closed and sys.stderr.isatty()
        self._started = self._shown = time.monotonic()
        self._recent: deque[tuple[float, int]] = deque([(self._started, done)], maxlen=64)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            seconds = time.monotonic() - self._started
            say(f"{self.title}: {self.done - self._before:,} {self.unit} in {format_seconds(seconds)}")
        else:
            _clear_live_line()

    def advance(self, count: int, note: str = "") -> None:
        """Count `count` more units done; `note` (a loss, say) is shown at the end of the line."""
        self.done += count
        now = time.monotonic()
        self._recent.append((now, self.done))
        if now - self._shown >= (_BAR_SECONDS if self._terminal else LINE_SECONDS):
            self._shown = now
            self._show(note)

    @property
    def rate(self) -> float:
        """Units a second, over the recent past."""
        (start, before), (end, after) = self._recent[0], self._recent[-1]
        return (after - before) / (end - start) if end > start else 0.0

    def _show(self, note: str) -> None:
        global _live_line
        if _quiet:
            return
        share = min(1.0, self.done / self.total) if self.total else 1.0
        rate = self.rate
        left = format_seconds(max(0, self.total - self.done) / rate) if rate else "?"
        text = f"{share:4.0%}  {self.done:,}/{self.total:,} {self.unit}  {rate:,.0f}/s  {left} left"
        text = f"{text}  {note}" if note else text
        if self._terminal:
            full = min(_BAR_WIDTH, round(share * _BAR_WIDTH))
            bar = "━" * full + "╌" * (_BAR_WIDTH - full)
            line = f"{self.title}  {bar} {text}"[: shutil.get_terminal_size().columns - 1]  # a wrapped line would stay
            _write(f"\r\x1b[K{line}")
            _live_line = True
        else:
            _write(f"{self.title}: {text}\n")


def _say(text: str) -> None:
    _clear_live_line()
    _write(f"{text}\n")


def _clear_live_line() -> None:
    global _live_line
    if _live_line:
        _write("\r\x1b[K")
        _live_line = False


def _write(text: str) -> None:
    """To stderr; work does not end because nobody reads what it says, or because there is no place for it."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        if sys.stderr is sys.__stderr__:
            with contextlib.suppress(OSError, ValueError):
                _speak_without_being_heard()


def _speak_without_being_heard() -> None:
    """From here on nothing fails that writes to stderr, and what it does not take is not kept: else the end of the
    process would try it once more, fail, and change the exit code."""
    sys.stderr = io.TextIOWrapper(
        _Unheard(sys.stderr.fileno(), "w", closefd=False), "utf-8", "backslashreplace", write_through=True
    )


class _Unheard(io.FileIO):
    """A descriptor that may take what is written to it, or not."""

    def write(self, data: Any) -> int:
        """All of it, as far as anybody can tell."""
        with contextlib.suppress(OSError):
            super().write(data)
        return len(data)
