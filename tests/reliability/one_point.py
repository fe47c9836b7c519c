"""Points of a suite by number: each depends on its own number alone, so that a failed one can be done again."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator

from tests.reliability.tally import LONG

_ASKED = os.environ.get("RELIABILITY_POINT")


def chunks(short: int, long: int, of_short: int, of_long: int) -> list[range]:
    """The numbers of the points of this size, `short` or `long` in all, cut into so many tests."""
    total, count = (long, of_long) if LONG else (short, of_short)
    if _ASKED is not None:
        return [range(int(_ASKED), int(_ASKED) + 1)]
    return [range(total * part // count, total * (part + 1) // count) for part in range(count)]


def alone() -> bool:
    """Whether one point is done by itself, so that counts say nothing."""
    return _ASKED is not None


@contextlib.contextmanager
def point(suite: str, number: int, what: str) -> Iterator[random.Random]:
    """Chance of one point; a failure in it says how to do it again."""
    try:
        yield random.Random(f"{suite} {number}")
    except Exception as error:
        again = f"RELIABILITY_POINT={number} python -m pytest -n 0 tests/reliability/test_{suite}.py"
        raise AssertionError(f"{suite}, point {number} ({what}). Again: {again}\n{error!r}") from error
