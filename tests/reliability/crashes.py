"""Every place where a command may stop, and the disk that it leaves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.reliability.tally import LONG
from tests.reliability.trees import fingerprint
from tests.reliability.volume import Operation, Tree, Volume, written


@dataclass(frozen=True, slots=True)
class Crash:
    """A place where all stopped, and the disk it left."""

    name: str
    kind: str
    tree: Tree

    def __str__(self) -> str:
        return self.name


def crashes_of(tree: Tree, operations: Iterable[Operation], name: str) -> Iterator[Crash]:
    """Every disk that a stop leaves: before each operation, and in the middle of each write."""
    volume = Volume(tree)
    for number, operation in enumerate(operations):
        before = volume.tree()
        yield Crash(f"{name}, {number}", operation.kind, before)
        for length in _torn_lengths(operation):
            content = before[operation.path]
            assert content is not None
            torn = written(content, operation.offset, operation.data[:length])
            yield Crash(f"{name}, {number} torn at {length}", "torn write", before | {operation.path: torn})
        volume.apply(operation)


def _torn_lengths(operation: Operation) -> list[int]:
    """How many bytes of a write may be there when all stops: half; in the long size also one, quarters, all but one."""
    whole = len(operation.data) if operation.kind == "write" else 0
    lengths = (1, whole // 4, whole // 2, 3 * whole // 4, whole - 1) if LONG else (whole // 2,)
    return sorted({length for length in lengths if 0 < length < whole})


def distinct(crashes: Iterable[Crash], seen: set[str]) -> list[Crash]:
    """The first crash of each disk; of a disk in `seen`, which grows by theirs, there is none."""
    chosen = []
    for crash in crashes:
        if (state := fingerprint(crash.tree)) not in seen:
            seen.add(state)
            chosen.append(crash)
    return chosen
