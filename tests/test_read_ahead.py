"""A thread that makes things ahead: in order, only a few, with its errors told and nothing left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

import pytest

from pipeline.read_ahead import ReadAhead

AHEAD = 2


def alive() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "maker"]


class Maker:
    """Counts up to a number, and notes what becomes of it."""

    def __init__(self, count: int, error: BaseException | None = None) -> None:
        self.made = 0
        self.closed_on = ""
        self._count, self._error = count, error

    def items(self) -> Generator[int, None, None]:
        try:
            for number in range(self._count):
                self.made += 1
                yield number
            if self._error is not None:
                raise self._error
        finally:
            self.closed_on = threading.current_thread().name


def test_all_come_in_order_and_the_thread_ends() -> None:
    with ReadAhead(Maker(50).items(), AHEAD, "maker") as ahead:
        assert list(ahead) == list(range(50))
        assert list(ahead) == []
    assert alive() == []


def test_only_a_few_are_made_before_they_are_asked_for() -> None:
    maker = Maker(50)
    with ReadAhead(maker.items(), AHEAD, "maker") as ahead:
        for taken in range(1, 4):
            next(ahead)
            before, deadline = -1, time.monotonic() + 20
            while before != maker.made and time.monotonic() < deadline:
                before = maker.made
                time.sleep(0.25)
            assert maker.made == taken + AHEAD + 1


def test_who_leaves_early_leaves_no_thread_and_the_items_are_closed_where_they_were_made() -> None:
    maker = Maker(1000)
    with ReadAhead(maker.items(), AHEAD, "maker") as ahead:
        next(ahead)
    assert (alive(), maker.closed_on) == ([], "maker")
    assert maker.made <= AHEAD + 3


def test_an_error_is_raised_in_its_place_and_again() -> None:
    with ReadAhead(Maker(3, OSError("the disk is gone")).items(), AHEAD, "maker") as ahead:
        assert [next(ahead) for _ in range(3)] == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(OSError, match="the disk is gone"):
                next(ahead)
    assert alive() == []


def test_the_thread_is_prepared_before_anything_is_made() -> None:
    maker, seen = Maker(1), list[tuple[str, int]]()
    with ReadAhead(maker.items(), AHEAD, "maker", lambda: seen.append((threading.current_thread().name, maker.made))):
        pass
    assert seen == [("maker", 0)]


def test_what_cannot_be_prepared_is_told_where_the_first_is_taken() -> None:
    def fail() -> None:
        raise RuntimeError("devices are busy")

    maker = Maker(3)
    with ReadAhead(maker.items(), AHEAD, "maker", fail) as ahead, pytest.raises(RuntimeError, match="busy"):
        next(ahead)
    assert maker.made == 0


def test_time_that_was_waited_is_counted() -> None:
    def slow() -> Generator[int, None, None]:
        time.sleep(0.2)
        yield 1

    with ReadAhead(slow(), AHEAD, "maker") as ahead:
        next(ahead)
        assert ahead.wait_seconds >= 0.15
