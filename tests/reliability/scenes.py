"""What the suites interrupt: a capture and a training of a few seconds, as a user would start them, in this process."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from pipeline.cache.plan import Plan
from pipeline.cache.writer import CacheWriter
from pipeline.distill import journal
from pipeline.distill.keeping.checkpoint import Checkpoint
from stages import train_student
from tests.reliability.shim import Before, Shim
from tests.reliability.tally import LONG
from tests.reliability.volume import Operation, Tree, Volume, written
from tests.stages.toys import Ended, Toy, make_toy, run

CAPTURE, TRAINING = "cache-teacher", "train-student"
_RANDOM_NAME = re.compile(r"\.[0-9a-f]{12}\.tmp\b")
_OF_THE_DAY = ("run/status.json", "run/student/timings.jsonl")  # hold times, or how often it was started


@dataclass(frozen=True, slots=True)
class Crash:
    """A place where all stopped, and the disk it left."""

    name: str
    kind: str
    tree: Tree

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Something the product said is safe, and the files that are then on disk."""

    after: int
    """operations made when it said so"""
    name: str
    files: Tree


@dataclass(frozen=True, slots=True)
class Recording:
    """A command that ran under the shim: the disk it began with, what it did to it, and how it ended."""

    before: Tree
    operations: list[Operation]
    acknowledged: list[Acknowledged]
    after: Tree
    ended: Ended

    def crashes(self, name: str) -> Iterator[Crash]:
        """Every place where all may stop."""
        return crashes_of(self.before, self.operations, name)


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


class _Enough(BaseException):
    """No more operations are wanted; nothing that catches errors catches this."""


@dataclass(slots=True)
class Scene:
    """One command on one disk, and what it leaves when nothing happens to it."""

    name: str
    stage: str
    toy: Toy
    disk: Path
    """the folder that the shim watches; it is laid out anew for every point"""
    options: list[str]
    straight: Recording = field(init=False)
    recovered: dict[str, str] = field(default_factory=dict)
    """states that were recovered from -> what was wrong with what came of it, if anything"""

    def record(self, tree: Tree, before: Before | None = None) -> Recording:
        """Lay out a disk and run the command on it, under the shim."""
        lay_out(self.disk, tree)
        shim, acknowledged = Shim(self.disk, tree, before), list[Acknowledged]()
        with shim.at_work(), _acknowledging(shim, acknowledged):
            ended = self.run()
        return Recording(tree, shim.operations, acknowledged, shim.volume.tree(), ended)

    def crashes_early(self, tree: Tree, most: int, name: str) -> Iterator[Crash]:
        """Every place where all may stop in the first `most` operations of the command on a disk."""

        def before(operation: Operation) -> None:
            if len(shim.operations) >= most:
                raise _Enough

        lay_out(self.disk, tree)
        shim = Shim(self.disk, tree, before)
        with shim.at_work(), contextlib.suppress(_Enough):
            self.run()
        return crashes_of(tree, shim.operations, name)

    def run(self) -> Ended:
        """Run the command on the disk as it is."""
        with mock.patch("importlib.metadata.version", _version):
            return run(*self.toy.command(self.stage, self.disk / "run", *self.options))

    def trouble_after(self, tree: Tree) -> str:
        """Start again from a disk that was left so, by the same command; what is wrong with the result, if anything.

        The same disk is recovered from once: what the command makes of it is a function of it.
        """
        state = fingerprint(tree)
        if state not in self.recovered:
            lay_out(self.disk, tree)
            with mock.patch.object(os, "fsync"):  # nobody pulls the plug now; disks are slow
                ended = self.run()
            self.recovered[state] = self.trouble(ended, read_tree(self.disk))
        return self.recovered[state]

    def trouble(self, ended: Ended, found: Tree) -> str:
        """What is wrong with a run that should have come to the same end as the straight one."""
        if ended.code != 0:
            return f"exit code {ended.code}: {ended.stderr}"
        status = json.loads(found.get("run/status.json") or b"{}")
        if status.get("state") != "complete":
            return f"status: {status}"
        if _logged_steps(found) != _logged_steps(self.straight.after):
            return f"timings.jsonl: steps {_logged_steps(found)}"
        return difference(found, self.straight.after)


def make_capture(folder: Path, shard_positions: int, num_texts: int) -> Scene:
    """A capture; more positions a shard, fewer shards."""
    toy = _small_toy(folder, num_texts, cache={"shard_positions": shard_positions})
    return _straight(Scene("capture", CAPTURE, toy, folder / "disk", []))


def make_training(folder: Path, **settings: Any) -> Scene:
    """A training on a cache that lies elsewhere, and is only read; better at every validation, so that each is kept."""
    every_time_better = {"batch_size": 2, "balance": False}
    toy = _small_toy(folder, 6, cache={"shard_positions": 1200}, train=every_time_better | settings)
    toy.ran(CAPTURE, folder / "cached")
    return _straight(Scene("training", TRAINING, toy, folder / "disk", ["--set", f"cache.roots=[{folder / 'cached'}]"]))


def _small_toy(folder: Path, num_texts: int, **changes: dict[str, Any]) -> Toy:
    toy = make_toy(folder / "toy")
    for path in sorted(toy.texts.iterdir())[num_texts:]:
        path.unlink()
    config = yaml.safe_load(toy.config.read_text(encoding="utf-8"))
    for section, values in changes.items():
        config[section] |= values
    toy.config.write_text(yaml.safe_dump(config), encoding="utf-8")
    return toy


def _straight(scene: Scene) -> Scene:
    scene.straight = scene.record({})
    assert scene.straight.ended.code == 0, scene.straight.ended.stderr
    assert scene.straight.after == read_tree(scene.disk)
    return scene


# ------------------------------------------------------------------ what was said to be safe


class _acknowledging:  # noqa: N801 - used as a function
    """In the block, note what the product says is sealed, saved or published, at the moment it says so."""

    def __init__(self, shim: Shim, acknowledged: list[Acknowledged]) -> None:
        self._shim, self._acknowledged = shim, acknowledged
        seal, save_plan, save, export = (
            CacheWriter.write, Plan.save, journal.save_checkpoint, train_student.export_model,
        )  # fmt: skip

        def sealing(writer: CacheWriter, span: Any, records: Any) -> Any:
            made = seal(writer, span, records)
            self._say(f"shard {span.index}", f"run/cache/shards/{span.index:05d}.")
            return made

        def planning(plan: Plan, path: Path) -> None:
            save_plan(plan, path)
            self._say("plan", "run/cache/", but="run/cache/shards/")

        def saving(folder: Path, prefix: str, step: int, *rest: Any) -> Checkpoint:
            made = save(folder, prefix, step, *rest)
            self._say(f"{prefix} {step}", f"run/student/checkpoints/{prefix}-{step:08d}/")
            return made

        def exporting(*args: Any) -> None:
            export(*args)
            self._say("model", "run/student/model/")

        self._patches = [
            mock.patch.object(CacheWriter, "write", sealing),
            mock.patch.object(Plan, "save", planning),
            mock.patch.object(journal, "save_checkpoint", saving),
            mock.patch.object(train_student, "export_model", exporting),
        ]

    def _say(self, name: str, prefix: str, but: str = "\0") -> None:
        self._acknowledged.append(
            Acknowledged(
                len(self._shim.operations),
                name,
                {
                    path: content
                    for path, content in self._shim.volume.tree().items()
                    if path.startswith(prefix) and not path.startswith(but) and content is not None
                },
            )
        )

    def __enter__(self) -> None:
        for patch in self._patches:
            patch.start()

    def __exit__(self, *_: object) -> None:
        for patch in self._patches:
            patch.stop()


# ------------------------------------------------------------------ trees


def lay_out(folder: Path, tree: Tree) -> None:
    """Make a folder hold a tree and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, content in sorted(tree.items()):
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


def read_tree(folder: Path) -> Tree:
    """What a folder holds."""
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}


def difference(found: Tree, expected: Tree) -> str:
    """Where two trees differ, but for what tells of the day; empty where they do not."""
    lines = []
    for path in sorted((found.keys() | expected.keys()) - set(_OF_THE_DAY)):
        if path not in expected:
            lines.append(f"{path}: is there and should not be")
        elif path not in found:
            lines.append(f"{path}: is missing")
        elif found[path] != expected[path]:
            lines.append(f"{path}: other bytes")
    return "\n".join(lines)


def fingerprint(tree: Tree) -> str:
    """The same for disks that no command can tell apart: random names count alike, and so do measured times."""
    entries = sorted(
        (_RANDOM_NAME.sub(".tmp", path), _digest(_without_times(path, content))) for path, content in tree.items()
    )
    return hashlib.sha256(repr(entries).encode()).hexdigest()


@lru_cache(maxsize=2**12)
def _digest(content: bytes | None) -> str:
    """Of a file; that of one disk is that of the next, but for what one operation changed."""
    return "a folder" if content is None else hashlib.sha256(content).hexdigest()


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


def _without_times(path: str, content: bytes | None) -> bytes | None:
    """The lines of timings.jsonl by their steps; a last one that is torn stays different from a whole one."""
    if content is None or "timings.jsonl" not in path:
        return content
    *whole, last = content.split(b"\n")
    return b"".join(line.partition(b",")[0] + b"\n" for line in whole) + (b"torn" if last else b"")


def _logged_steps(tree: Tree) -> list[int]:
    content = tree.get("run/student/timings.jsonl") or b""
    return [json.loads(line)["step"] for line in content.splitlines()]


_version = cache(importlib.metadata.version)
