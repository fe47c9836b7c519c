"""Counts of the suites: points, each at an operation that was reached; shown at the end, and kept by a long run.

A long run remembers in `artifacts/reliability/progress.jsonl` which of its tests passed, and on what code; run again
on the same code after any stop, it does only those that are left, and the counts are of all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

LONG = os.environ.get("RELIABILITY") == "long"
PROGRESS = Path("artifacts/reliability/progress.jsonl")
_PROPERTY = "reliability"
_ALIKE = " on a disk like another's"
_SOURCES = ("pipeline", "stages", "tests")


class Tally:
    """What one test of a suite did."""

    def __init__(self, node: pytest.Item) -> None:
        self.operations: dict[str, int] = {}
        node.user_properties.append((_PROPERTY, self.operations))  # goes along with the report, from any process

    def point(self, operation: str) -> None:
        """One more point, whose operation was reached; operations of one name are of one kind."""
        self.operations[operation] = self.operations.get(operation, 0) + 1

    def alike(self, operation: str) -> None:
        """A place whose operation was reached, and that is no further point: its disk is one that was counted."""
        self.point(operation + _ALIKE)

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


def counts_of(report: Any) -> dict[str, int]:
    """The counts a test sent along."""
    return next((value for name, value in report.user_properties if name == _PROPERTY), {})


def points_of(operations: Mapping[str, int]) -> int:
    """How many of these counts are points."""
    return sum(count for operation, count in operations.items() if not operation.endswith(_ALIKE))


def suite_of(nodeid: str) -> str | None:
    """The suite a test belongs to; None for other tests."""
    found = re.search(r"tests/reliability/test_(\w+)\.py::", nodeid)
    return found and found[1]


def summary(counts: Iterable[tuple[str, dict[str, int]]]) -> list[str]:
    """A line a suite, from (test, its counts)."""
    suites: dict[str, Counter[str]] = {}
    for nodeid, operations in counts:
        if operations and (suite := suite_of(nodeid)):
            suites.setdefault(suite, Counter()).update(operations)
    return [_line(suite, operations) for suite, operations in sorted(suites.items())]


def _line(suite: str, operations: Counter[str]) -> str:
    points, kinds = points_of(operations), {operation.removesuffix(_ALIKE) for operation in operations}
    alike = operations.total() - points
    places = f"; {operations.total():,} places, {alike:,} of them on a disk like another's" if alike else ""
    return f"{suite}: {points:,} points at {len(kinds):,} kinds of operation{places}"


# ------------------------------------------------------------------ long runs, in pieces


def code_digest() -> str:
    """Of everything that a result depends on and that this repository holds."""
    hasher = hashlib.sha256()
    for folder in _SOURCES:
        for path in sorted(Path(folder).rglob("*.py")):
            hasher.update(f"{path}\0".encode() + path.read_bytes())
    return hasher.hexdigest()[:16]


def passed_before() -> dict[str, dict[str, int]]:
    """Test -> counts, of those that a long run on this code has behind it."""
    if not LONG or not PROGRESS.is_file():
        return {}
    digest = code_digest()
    lines = [json.loads(line) for line in PROGRESS.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return {line["test"]: line["counts"] for line in lines if line["code"] == digest}


def keep(nodeid: str, counts: dict[str, int], digest: str) -> None:
    """Remember a test that passed."""
    PROGRESS.parent.mkdir(parents=True, exist_ok=True)
    with PROGRESS.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"test": nodeid, "counts": counts, "code": digest}) + "\n")
