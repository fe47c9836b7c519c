"""When to pause: signals in a real process, and the arithmetic of the time budget."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time

import pytest

from pipeline import pause
from pipeline.pause import PausedError, PauseRequest

WORKER = """
import time
from pipeline.pause import PausedError, PauseRequest
with PauseRequest() as request:
    print(request.reason(), flush=True)
    while request.reason() is None:
        time.sleep(0.01)
    print(request.reason(), flush=True)
    try:
        request.check()
    except PausedError as reason:
        print("given up:", reason, flush=True)
    {then}
print("left in order", flush=True)
"""


def start(then: str = "pass") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER.format(then=then)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "None\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks(number: signal.Signals) -> None:
    process = start()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    reason = f"{number.name} was received"
    assert out == f"{reason}\ngiven up: {reason}\nleft in order\n"
    assert (process.returncode, err.strip()) == (
        0,
        "pausing as soon as what is under way can be left; once more leaves at once",
    )


@pytest.mark.parametrize(("second", "seconds_later"), [(signal.SIGINT, 0.5), (signal.SIGTERM, 0.0)])
def test_the_second_signal_leaves_at_once(second: signal.Signals, seconds_later: float) -> None:
    process = start(then="time.sleep(60)")
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.readline()
    time.sleep(seconds_later)
    process.send_signal(second)
    out, _ = process.communicate(timeout=30)
    assert "left in order" not in out
    assert process.returncode == 128 + second


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_is_delivered_twice_is_one(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by `timeout`, which sends it to the command and then to its group; the time from the first one on counts."""
    left, now = list[int](), [100.0]
    monkeypatch.setattr(pause.os, "_exit", left.append)
    monkeypatch.setattr(pause.time, "monotonic", lambda: now[0])
    with PauseRequest() as request:
        for now[0] in (100.0, 100.01, 100.29):
            signal.raise_signal(number)
        assert (request.reason(), left) == (f"{number.name} was received", [])
        now[0] = 100.31
        signal.raise_signal(number)
        assert left == [128 + number]


def test_a_signal_is_heard_where_nothing_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(text: str) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(pause, "say", fail)
    with PauseRequest() as request:
        with pytest.raises(OSError, match="no room"):
            signal.raise_signal(signal.SIGTERM)
        assert request.reason() == "SIGTERM was received"


def test_handlers_are_given_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with PauseRequest():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_of_this_process_gives_up_a_long_unit() -> None:
    with PauseRequest() as request:
        request.check()
        signal.raise_signal(signal.SIGTERM)
        assert request.reason() == "SIGTERM was received"
        with pytest.raises(PausedError, match="SIGTERM was received"):
            request.check()


def test_the_budget_keeps_room_for_the_slowest_unit_and_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """Due as soon as time left <= 1.2 * (slowest recent unit + slowest save)."""
    now = [0.0]
    monkeypatch.setattr(pause.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pause, "_PROCESS_START", 0.0)
    request = PauseRequest(time_budget_seconds=100.0)
    request.note_unit(3.0)
    request.note_unit(10.0)
    request.note_save(5.0)
    request.note_save(2.0)
    now[0] = 100.0 - 1.2 * 15.0 - 0.01
    assert request.reason() is None
    now[0] += 0.02
    assert request.reason() == (
        "the time budget is nearly spent: of 1 min 40 s 18 s are left, and the next piece of work with its save may "
        "take 18 s"
    )
    request.check()  # not yet spent: a unit in its middle goes on
    now[0] = 100.0
    with pytest.raises(PausedError, match="the time budget is spent"):
        request.check()


def test_a_validation_is_remembered_however_many_units_come_after_it(clock: list[float]) -> None:
    clock[0] = 50.0
    request = PauseRequest(time_budget_seconds=100.0)
    request.note_beside(42.0)
    for _ in range(pause.REMEMBERED_UNITS):
        request.note_unit(1.0)
    assert "may take 52 s" in str(request.reason())


def test_a_save_is_guessed_until_one_was_measured(clock: list[float]) -> None:
    clock[0] = 50.0
    request = PauseRequest(time_budget_seconds=100.0)
    request.guess_save(60.0)
    assert request.reason() is not None
    request.note_save(5.0)
    assert request.reason() is None


def test_an_old_slow_unit_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pause.time, "monotonic", lambda: 50.0)
    monkeypatch.setattr(pause, "_PROCESS_START", 0.0)
    request = PauseRequest(time_budget_seconds=100.0)
    request.note_unit(60.0)
    assert request.reason() is not None
    for _ in range(pause.REMEMBERED_UNITS):
        request.note_unit(1.0)
    assert request.reason() is None


def test_without_a_budget_time_is_no_reason() -> None:
    request = PauseRequest()
    request.note_unit(1e9)
    assert request.reason() is None


def test_a_spent_budget_is_due_before_any_unit() -> None:
    assert PauseRequest(time_budget_seconds=1e-9).reason() is not None


# ------------------------------------------------------------------ a session that is older than the process


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The process began at 0; its clock shows the number in this list."""
    now = [0.0]
    monkeypatch.setattr(pause.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pause, "_PROCESS_START", 0.0)
    return now


def test_the_time_of_earlier_commands_counts(clock: list[float]) -> None:
    request = PauseRequest(100.0, session_age_seconds=70.0)
    request.note_unit(5.0)
    clock[0] = 23.9  # 6.1 s are left
    assert request.reason() is None
    clock[0] = 24.1
    assert "of 1 min 40 s 6 s are left" in str(request.reason())
    request.check()
    clock[0] = 30.0
    with pytest.raises(PausedError, match="the time budget is spent: 1 min 40 s"):
        request.check()


def test_nothing_is_begun_in_a_session_without_time_for_it(clock: list[float]) -> None:
    request = PauseRequest(100.0, session_age_seconds=97.0)
    request.check_beginning()
    request.note_save(2.6)  # with the margin 3.12 s
    with pytest.raises(PausedError, match=r"of 1 min 40 s 3 s are left, and the next piece .* may take 3 s"):
        request.check_beginning()


def test_a_budget_of_the_process_alone_lets_every_start_get_on(clock: list[float]) -> None:
    clock[0] = 500.0
    request = PauseRequest(100.0)
    request.check_beginning()
    assert request.reason() is not None


def test_a_budget_of_the_process_alone_that_is_over_before_anything_was_done_is_in_vain(clock: list[float]) -> None:
    request = PauseRequest(100.0)
    assert request.in_vain() is None
    clock[0] = 100.0
    assert request.in_vain() == "1 min 40 s are allowed from the start of this command"
    request.note_progress()
    assert request.in_vain() is None


def test_a_pause_that_is_not_the_budgets_fault_is_not_in_vain(clock: list[float]) -> None:
    clock[0] = 500.0
    done = PauseRequest(100.0)
    done.note_unit(3.0)
    asked = PauseRequest(100.0)
    with asked:
        signal.raise_signal(signal.SIGINT)
    older = PauseRequest(100.0, session_age_seconds=6.0)
    assert [request.in_vain() for request in (PauseRequest(), done, asked, older)] == [None] * 4


def test_a_sessions_budget_is_in_vain_where_no_later_one_has_more_of_it(clock: list[float]) -> None:
    """A command that began within a twentieth of it."""
    request = PauseRequest(100.0, session_age_seconds=5.0)
    clock[0] = 94.0
    assert request.in_vain() is None
    clock[0] = 95.0
    assert request.in_vain() == "1 min 40 s are allowed from the start of this session"
    request.note_progress()
    assert request.in_vain() is None
    assert [request.in_session, PauseRequest(100.0).in_session] == [True, False]


def test_nothing_is_begun_after_a_signal() -> None:
    with PauseRequest() as request:
        request.check_beginning()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(PausedError, match="SIGINT was received"):
            request.check_beginning()
