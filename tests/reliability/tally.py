"""Counts of the suites: points, each at an operation that was reached, and how long what is promised to be quick took;
shown at the end, and kept by a long run.

A long run remembers in `artifacts/reliability/progress.jsonl` which of its tests passed, and on what code; run again
on the same code after any stop, it does only those that are left, and the counts are of all of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import pytest

LONG = os.environ.get("RELIABILITY") == "long"
PROGRESS = Path("artifacts/reliability/progress.jsonl")
_PROPERTY = "reliability"
_ALIKE = " on a disk like another's"
_SOURCES = ("pipeline", "stages", "tests")


class Done(TypedDict):
    """What one test of a suite did, as its report and progress.jsonl carry it."""

    operations: dict[str, int]
    seconds: dict[str, list[float]]
    """what took how long, where that is promised"""
    took: float
    """seconds of the test itself, with what it had to set up first"""


class Tally:
    """What one test of a suite does."""

    def __init__(self, node: pytest.Item) -> None:
        self.operations: dict[str, int] = {}
        self.seconds: dict[str, list[float]] = {}
        done = Done(operations=self.operations, seconds=self.seconds, took=0.0)
        node.user_properties.append((_PROPERTY, done))  # goes along with the report, from any process

    def point(self, operation: str) -> None:
        """One more point, whose operation was reached; operations of one name are of one kind."""
        self.operations[operation] = self.operations.get(operation, 0) + 1

    def alike(self, operation: str) -> None:
        """A place whose operation was reached, and that is no further point: its disk is one that was counted."""
        self.point(operation + _ALIKE)

    def measure(self, what: str, seconds: float) -> None:
        """One more duration that is told at the end."""
        self.seconds.setdefault(what, []).append(seconds)

    @property
    def points(self) -> int:
        """How many there were."""
        return points_of(self.operations)

    def seeds(self, chunk: int, wanted: int, tries: int = 4) -> Iterator[int]:
        """Seeds of a chunk, one after another until `wanted` points are counted: of some the moment is missed.

        AssertionError where that takes more than `tries` seeds a point.
        """
        for seed in range(1000 * chunk, 1000 * chunk + tries * wanted):
            if self.points >= wanted:
                return
            yield seed
        assert self.points >= wanted, f"{self.points} points of {tries * wanted} seeds: too few came in time"


def done_in(report: Any) -> Done | None:
    """What a test sent along; None of tests that count nothing."""
    return next((value for name, value in report.user_properties if name == _PROPERTY and value["operations"]), None)


def points_of(operations: Mapping[str, int]) -> int:
    """How many of these counts are points."""
    return sum(count for operation, count in operations.items() if not operation.endswith(_ALIKE))


def suite_of(nodeid: str) -> str | None:
    """The suite a test belongs to; None for other tests."""
    found = re.search(r"tests/reliability/test_(\w+)\.py::", nodeid)
    return found and found[1]


def summary(done: Iterable[tuple[str, Done]]) -> list[str]:
    """A line a suite, and one for each duration it promises, from (test, what it did)."""
    suites: dict[str, list[Done]] = {}
    for nodeid, of_test in done:
        if suite := suite_of(nodeid):
            suites.setdefault(suite, []).append(of_test)
    return [line for suite, tests in sorted(suites.items()) for line in _lines(suite, tests)]


def _lines(suite: str, tests: list[Done]) -> Iterator[str]:
    operations = sum((Counter(test["operations"]) for test in tests), Counter[str]())
    points, kinds = points_of(operations), {operation.removesuffix(_ALIKE) for operation in operations}
    alike = operations.total() - points
    places = f"; {operations.total():,} places, {alike:,} of them on a disk like another's" if alike else ""
    took = sum(test["took"] for test in tests)
    yield f"{suite}: {points:,} points at {len(kinds):,} kinds of operation{places}; {took:,.0f} s of one core"
    for what in sorted({what for test in tests for what in test["seconds"]}):
        seconds = sorted(second for test in tests for second in test["seconds"].get(what, []))
        middle, most = seconds[len(seconds) // 2], seconds[-1]
        yield f"{suite}: {what}: {middle:.2f} s in the middle, {most:.2f} s at most, of {len(seconds)}"


# ------------------------------------------------------------------ long runs, in pieces


def code_digest() -> str:
    """Of everything that a result depends on and that this repository holds."""
    hasher = hashlib.sha256()
    for folder in _SOURCES:
        for path in sorted(Path(folder).rglob("*.py")):
            hasher.update(f"{path}\0".encode() + path.read_bytes())
    return hasher.hexdigest()[:16]


def passed_before() -> dict[str, Done]:
    """Test -> what it did, of those that a long run on this code has behind it."""
    if not LONG or not PROGRESS.is_file():
        return {}
    digest = code_digest()
    return {line["test"]: line["done"] for line in _whole_lines(PROGRESS) if line["code"] == digest}


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """All but what a stop tore off, and what an earlier version joined to that."""
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def keep(nodeid: str, done: Done, digest: str) -> None:
    """Remember a test that passed, on a line of its own whatever a stop has left."""
    PROGRESS.parent.mkdir(parents=True, exist_ok=True)
    with PROGRESS.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps({"test": nodeid, "done": done, "code": digest}).encode() + b"\n")
