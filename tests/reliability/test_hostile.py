"""Hostile files: a typed error or the same data; nothing is executed, nothing outside the roots is opened.

Each chunk runs in a child process under an audit hook, with bounds of memory and time.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import console
from pipeline.errors import SadError
from tests.reliability import hostile, hostile_by_hand, mutations
from tests.reliability.guarded import Bounds, TooSlow, Watch, in_child
from tests.reliability.one_point import alone, chunks, point
from tests.reliability.tally import Tally

BY_HAND_BAR = 40


@pytest.mark.parametrize("numbers", chunks(5_000, 200_000, of_short=4, of_long=40), ids=lambda n: f"{n[0]}-{n[-1]}")
def test_fuzzed(numbers: range, tally: Tally, tmp_path: Path, memory: Path) -> None:
    """Valid files, changed in their structure or byte by byte."""
    roots = memory / f"hostile-{numbers.start}"
    found = in_child(fuzz, tmp_path / "answer.json", roots, numbers.start, numbers.stop)
    for name, count in found.items():
        for _ in range(count):
            tally.point(name)
    assert tally.points == len(numbers)
    assert alone() or len(tally.operations) == len(hostile.targets(roots))


def fuzz(folder: Path, start: int, stop: int) -> dict[str, Any]:
    """The child's part of it: points by kind."""
    hostile.lay_out(folder)
    targets = hostile.targets(folder)
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    right = {target.name: target.read() for target in targets}
    watch, bounds, counts = Watch([folder]), Bounds(), dict.fromkeys((target.name for target in targets), 0)
    for number in range(start, stop):
        target = targets[number % len(targets)]
        with point("hostile", number, target.name) as chance:
            with mutations.deep():
                content = whole[target.path]
                while content == whole[target.path]:
                    content = target.change(whole[target.path], chance)
                target.path.write_bytes(content)
                touched = [target.path, *(hostile.sign(target) if target.forged else [])]
            found = guarded(watch, bounds, target.read)
            if not (isinstance(found, SadError) or target.forged or found is None):
                assert found == right[target.name], "other data, and no error"
            for path in touched:  # nothing else was written to: the watch has seen to that
                path.write_bytes(whole[path])
        counts[target.name] += 1
    return {name: count for name, count in counts.items() if count}


def guarded(watch: Watch, bounds: Bounds, read: Any) -> Any:
    """What `read` gives, or the typed error it raises; nothing else may come of it."""
    console._said.clear()
    began = time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            bounds.start()
            watch.on = True
            found: Any = read()
        except SadError as error:
            found = error
        except TooSlow as error:
            raise AssertionError(f"too slow: {time.process_time() - began:.1f} s") from error
        finally:
            watch.on = False
            bounds.stop()
    assert not watch.seen, watch.seen
    return found


def test_made_by_hand(tally: Tally, tmp_path: Path) -> None:
    """One file for each trick that is known."""
    found = in_child(by_hand, tmp_path / "answer.json", tmp_path)
    for name in found["names"]:
        tally.point(name)
    assert tally.points == len(hostile_by_hand.CASES) >= BY_HAND_BAR


def by_hand(folder: Path) -> dict[str, Any]:
    """The child's part of it: the names of the cases that were refused, or harmless."""
    hostile.lay_out(folder / "first")
    for target in hostile.targets(folder / "first"):
        target.read()
    names, roots = [], [folder / name for name in hostile_by_hand.CASES]
    watch, bounds = Watch(roots), Bounds()
    for root, (name, case) in zip(roots, hostile_by_hand.CASES.items(), strict=True):
        hostile.lay_out(root)
        hostile_by_hand.lay_traps(folder)
        read = case(root)
        try:
            found = guarded(watch, bounds, read)
            assert isinstance(found, SadError) or found is None or name in hostile_by_hand.HARMLESS, found
        except Exception as error:
            raise AssertionError(f"{name}: {error!r}") from error
        assert not (folder / "executed").exists(), name
        names.append(name)
    assert "pickle" in sys.modules
    return {"names": names}
