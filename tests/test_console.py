"""What people see: all on stderr, a bar at a terminal, one line every 30 seconds elsewhere."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from pipeline import console
from pipeline.console import Progress, format_bytes, format_seconds, say, warn_once


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that moves when it is told to."""
    now = [1000.0]

    def move(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return move


def pretend_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """stderr says it is a terminal of 60 columns."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")


def test_saying_leaves_stdout_free(capsys: pytest.CaptureFixture[str]) -> None:
    say("two\nlines")
    warn_once("a setting was skipped")
    with Progress("work", 1, "units") as progress:
        progress.advance(1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "two\nlines\nnote: a setting was skipped\nwork: 1 units in 0 s\n"


def test_a_warning_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        warn_once("said once, by this test")
    warn_once("another one, by this test")
    assert capsys.readouterr().err == "note: said once, by this test\nnote: another one, by this test\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3599.6, "1 h 00 min"),
        (7620, "2 h 07 min"), (360_000, "100 h 00 min"),
    ],
)  # fmt: skip
def test_seconds_read_well(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"), (812, "812 bytes"), (999, "999 bytes"), (1000, "1 kB"), (4.1e6, "4.1 MB"), (1.25e9, "1.25 GB"),
        (999_400, "999 kB"), (999_600, "1 MB"), (999.9e6, "1 GB"), (20e9, "20 GB"), (1234.5e9, "1,234 GB"),
    ],
)  # fmt: skip
def test_bytes_read_well(num_bytes: float, text: str) -> None:
    assert format_bytes(num_bytes) == text


def test_a_batch_log_gets_a_line_every_thirty_seconds(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
) -> None:
    with Progress("scoring", 1000, "sequences") as progress:
        for _ in range(100):
            clock(1.0)
            progress.advance(10, note="loss 4.2")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0] == "scoring:  30%  300/1,000 sequences  10/s  1 min 10 s left  loss 4.2"
    assert lines[-1] == "scoring: 1,000 sequences in 1 min 40 s"
    assert not any("\r" in line or "\x1b" in line for line in lines)


def test_a_terminal_gets_one_live_line(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_terminal(monkeypatch)
    with Progress("scoring", 1000, "sequences") as progress:
        for _ in range(10):
            clock(0.1)
            progress.advance(100)
        say("a word in between")
    shown = capsys.readouterr().err
    assert 4 <= shown.count("scoring  ") <= 5  # at most every 0.2 s
    before, after = shown.split("a word in between\n")
    assert before.endswith("\r\x1b[K"), "the live line is cleared before anything is said"
    assert after == "scoring: 1,000 sequences in 1 s\n"
    assert "\n" not in before
    assert all(len(line) < 60 for line in before.split("\r\x1b[K")), "a wrapped line could not be cleared"


def test_a_failure_clears_the_live_line_and_claims_nothing(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_terminal(monkeypatch)

    def fail() -> None:
        with Progress("scoring", 10, "sequences") as progress:
            clock(1.0)
            progress.advance(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    shown = capsys.readouterr().err
    assert shown.endswith("\r\x1b[K")
    assert " in " not in shown


def test_the_rate_is_of_the_recent_past(clock: Callable[[float], None]) -> None:
    progress = Progress("training", 10_000, "steps", done=5)
    assert progress.rate == 0.0
    for _ in range(100):
        clock(10.0)
        progress.advance(1)
    for _ in range(64):
        clock(0.5)
        progress.advance(1)
    assert progress.rate == pytest.approx(2.0)
    assert progress.done == 169


@pytest.mark.parametrize(("total", "done"), [(0, 0), (0, 5), (10, 15)], ids=["nothing", "none due", "too many"])
def test_odd_totals_show_no_nonsense(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None], total: int, done: int
) -> None:
    with Progress("work", total, "units") as progress:
        clock(31.0)
        progress.advance(done)
    line = capsys.readouterr().err.splitlines()[0]
    assert "100%" in line
    assert "-" not in line


def _no_reader() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def _no_terminal() -> int:
    first, second = os.openpty()
    os.close(first)
    return second


def _no_room() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("beginning", [_no_reader, _no_terminal, _no_room])
def test_nobody_reading_is_no_reason_to_stop(beginning: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    with os.fdopen(beginning(), "w", buffering=1) as broken:
        monkeypatch.setattr(sys, "stderr", broken)
        console.say("is anybody there?")
        with console.Progress("work", 2, "steps") as progress:
            progress.advance(2)
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            broken.close()


def test_a_stream_that_is_closed_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    console.say("is anybody there?")
    with console.Progress("work", 2, "steps") as progress:
        progress.advance(2)


HEARD_AGAIN = """
import os
from pipeline.console import say
heard, full = os.dup(2), os.open("/dev/full", os.O_WRONLY)
os.dup2(full, 2)
say("lost")
print("lost as well", file=__import__("sys").stderr, flush=True)
os.dup2(heard, 2)
say("heard")
if {full_at_the_end}:
    os.dup2(full, 2)
    say("lost again")
"""


@pytest.mark.parametrize("full_at_the_end", [False, True])
def test_what_was_not_heard_changes_nothing_later(full_at_the_end: bool) -> None:
    """Not even the exit code, where the interpreter flushes its streams at its end."""
    code = HEARD_AGAIN.format(full_at_the_end=full_at_the_end)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "heard\n")


def test_a_continued_piece_of_work_claims_only_its_own_share(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with console.Progress("train", 100, "tokens", done=60) as progress:
        clock(2.0)
        progress.advance(40)
    assert "train: 40 tokens in 2 s" in capsys.readouterr().err
