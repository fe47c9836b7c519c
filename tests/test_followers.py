"""Processes that work for another: results, errors, a pause, and one that is killed with what others need in hand."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, MachineError
from pipeline.followers import Followers
from pipeline.pause import PausedError, PauseRequest

SECONDS = 60.0
_pause: PauseRequest
_number: int


def begin(pause: PauseRequest, number: int, word: str) -> None:
    """What each begins with."""
    global _pause, _number
    assert word == "given"
    _pause, _number = pause, number


def who() -> tuple[int, int]:
    """The number and the process of the one that is asked."""
    return _number, os.getpid()


def refuse() -> None:
    """Fails as a stage does."""
    raise ConfigError("expected this, found that")


def work_until_a_pause(begun: str) -> None:
    """Has no end but a pause, or its own."""
    Path(begun).write_text(str(os.getpid()), encoding="utf-8")
    while True:
        _pause.check()
        time.sleep(0.01)


def sleep_for_good(begun: str) -> None:
    """Hears of nothing."""
    Path(begun).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(SECONDS)


def wait_for(condition: Callable[[], bool]) -> None:
    """Return as soon as it is so."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def followers(count: int = 2) -> Followers:
    """Some of them."""
    return Followers(count, "some.workers", begin, "given")


def test_each_has_a_number_and_gives_results_and_errors() -> None:
    """Either may answer, also one that has not answered before: which, is the system's affair."""
    with followers() as pool:
        found = {pool.result(future) for future in [pool.submit(who) for _ in range(20)]}
        with pytest.raises(ConfigError, match="expected this, found that"):
            pool.result(pool.submit(refuse))
        found |= {pool.result(future) for future in [pool.submit(who) for _ in range(20)]}
        assert {number for number, _ in found} <= {0, 1}
        assert len({process for _, process in found}) == len(found), "a number is of one process, also after an error"
    assert multiprocessing.active_children() == []


def test_an_error_is_not_the_end_of_the_process_it_is_of() -> None:
    with followers(1) as pool:
        before = pool.result(pool.submit(who))
        with pytest.raises(ConfigError, match="expected this, found that"):
            pool.result(pool.submit(refuse))
        assert pool.result(pool.submit(who)) == before


def test_at_the_end_they_are_asked_to_pause(tmp_path: Path) -> None:
    with followers() as pool:
        futures = [pool.submit(work_until_a_pause, str(tmp_path / str(number))) for number in range(9)]
        wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    for future in futures[:2]:
        with pytest.raises(PausedError, match="a pause was asked for"):
            pool.result(future)
    assert futures[-1].cancelled(), "what was not begun is not"
    assert not (tmp_path / "8").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_signals_are_the_business_of_the_first(number: signal.Signals) -> None:
    with followers(1) as pool:
        _, process = pool.result(pool.submit(who))
        os.kill(process, number)
        assert pool.result(pool.submit(who)) == (0, process)


@pytest.mark.parametrize("work", [work_until_a_pause, sleep_for_good])
def test_one_that_is_killed_while_it_holds_the_queue_does_not_keep_the_others(
    work: Callable[[str], None], tmp_path: Path
) -> None:
    """One that has nothing to do holds the lock of the queue it waits at."""
    began = time.monotonic()
    with followers() as pool:
        busy = pool.submit(work, str(tmp_path / "begun"))
        wait_for((tmp_path / "begun").is_file)
        _, idle = pool.result(pool.submit(who))
        time.sleep(0.2)  # until it waits at the queue
        os.kill(idle, signal.SIGKILL)
        with pytest.raises(MachineError, match=r"some\.workers: one of 2 processes was killed"):
            pool.result(busy)
    assert multiprocessing.active_children() == []
    assert time.monotonic() - began < SECONDS / 2


def test_what_is_asked_of_a_broken_pool_is_refused_in_words() -> None:
    with followers(1) as pool:
        _, process = pool.result(pool.submit(who))
        os.kill(process, signal.SIGKILL)
        wait_for(lambda: not multiprocessing.active_children())
        with pytest.raises(MachineError, match=r"some\.workers: one of 1 processes was killed"):
            pool.result(pool.submit(who))
