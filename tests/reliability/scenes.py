"""What the suites interrupt: a capture and a training of a few seconds, as a user would start them, in this process."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from pipeline.cache.plan import Plan
from pipeline.cache.writer import CacheWriter
from pipeline.distill import journal
from pipeline.distill.keeping.checkpoint import Checkpoint
from stages import train_student
from tests.reliability.crashes import Crash, crashes_of
from tests.reliability.shim import Before, Shim
from tests.reliability.trees import difference, fingerprint, lay_out, read_tree
from tests.reliability.volume import Operation, Tree
from tests.stages.toys import Ended, Toy, make_toy, run

CAPTURE, TRAINING = "cache-teacher", "train-student"


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


def _logged_steps(tree: Tree) -> list[int]:
    content = tree.get("run/student/timings.jsonl") or b""
    return [json.loads(line)["step"] for line in content.splitlines()]


_version = cache(importlib.metadata.version)
