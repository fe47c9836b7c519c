"""What a long run remembers of itself, and what is said at the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability import tally
from tests.reliability.tally import Done, Tally

CRASH, KILL = "tests/reliability/test_crash.py::test_one", "tests/reliability/test_kill.py::test_other"


def done(node: pytest.Item) -> Done:
    """What a test did: two points of one kind, one of another, and a place that was like another's."""
    counting = Tally(node)
    for operation in ("write", "write", "rename"):
        counting.point(operation)
    counting.alike("rename")
    counting.measure("paused", 0.5)
    counting.measure("paused", 0.25)
    assert counting.points == 3
    found: Done = node.user_properties[-1][1]  # type: ignore[assignment]
    node.user_properties.pop()
    return found


def test_a_long_run_goes_on_with_what_is_left(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "PROGRESS", tmp_path / "kept" / "progress.jsonl")
    monkeypatch.setattr(tally, "LONG", True)
    assert tally.passed_before() == {}
    code, one = tally.code_digest(), done(request.node)
    tally.keep(CRASH, one, code)
    tally.keep(KILL, one, "of other code")
    with tally.PROGRESS.open("a", encoding="utf-8") as file:
        file.write('{"test": "broken off')
    assert tally.passed_before() == {CRASH: one}
    monkeypatch.setattr(tally, "LONG", False)
    assert tally.passed_before() == {}


@pytest.mark.parametrize("torn", ['{"test": "broken off', '{"test": "x", "done": {}, "code": "whole"}', "\xe4", ""])
def test_a_line_that_was_torn_off_spoils_no_other(
    torn: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two were joined, and no later run could read them."""
    monkeypatch.setattr(tally, "PROGRESS", tmp_path / "progress.jsonl")
    monkeypatch.setattr(tally, "LONG", True)
    code, one = tally.code_digest(), done(request.node)
    tally.keep(CRASH, one, code)
    with tally.PROGRESS.open("ab") as file:
        file.write(torn.encode("latin-1"))
    tally.keep(KILL, one, code)
    assert tally.passed_before() == {CRASH: one, KILL: one}
    with tally.PROGRESS.open("ab") as file:  # as earlier versions left it
        file.write(b'{"test": "broken off{"test": "joined to it", "done": {}, "code": "x"}\n')
    tally.keep("another", one, code)
    assert tally.passed_before() == {CRASH: one, KILL: one, "another": one}


def test_each_suite_says_its_points_and_what_it_measured(request: pytest.FixtureRequest) -> None:
    one = done(request.node) | {"took": 1.6}
    other = one | {"operations": {"kill": 1}, "seconds": {}}
    lines = tally.summary([(KILL, one), ("tests/test_files.py::test_a", one), (CRASH, other), (KILL, other)])
    assert lines == [
        "crash: 1 points at 1 kinds of operation; 2 s of one core",
        "kill: 4 points at 3 kinds of operation; 5 places, 1 of them on a disk like another's; 3 s of one core",
        "kill: paused: 0.50 s in the middle, 0.50 s at most, of 2",
    ]
