"""Processes that write one cache, told by a parent what to do; it may freeze them, wake them, and kill them."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any

from pipeline import files
from pipeline.cache import TeacherCache
from pipeline.cache.plan import PLAN_NAME, SEQUENCES_NAME, SHARDS_FOLDER, Plan
from pipeline.cache.records import Records
from pipeline.cache.sequence_file import StoredSequences
from pipeline.cache.writer import CacheWriter
from pipeline.data.sequences import Sequences
from pipeline.errors import SadError
from pipeline.runs import RunDirectory
from tests.cache.dense import ENVIRONMENT, logits_of, make_cache, records_of
from tests.stages.toys import PRELOADED

OPERATIONS = [(fcntl, "flock"), (os, "fsync"), (os, "replace"), (os, "unlink"), (os, "mkdir"), (os, "open")]
Answer = tuple[str, str]
"""(done | refused | error, what it says)"""


@dataclass(frozen=True, slots=True)
class Task:
    """What a writer is to do: seal what is pending in `run_dir`, in an order of its own."""

    run_dir: str
    with_lock: bool
    """as a command does; without, as a library would"""
    seed: int
    root: str = ""
    """a further folder that is only read"""
    freeze_at: int | None = None
    """freeze before this operation of its own, from 0"""


@dataclass(slots=True)
class Writer:
    """One process that waits for tasks."""

    process: BaseProcess
    pipe: Connection

    @classmethod
    def begin(cls, template: Path) -> Writer:
        """Start it on the cache that all tasks copy."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*PRELOADED, __name__])
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, str(template)), daemon=True)
        process.start()
        theirs.close()
        assert ours.recv() == "ready"
        return cls(process, ours)

    def is_frozen(self) -> bool:
        """Whether it was stopped."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process.pid is not None
        return self.process.pid

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def answer(self, seconds: float = 30) -> Answer:
        """What became of its task."""
        assert self.pipe.poll(seconds), f"writer {self.pid} does not answer"
        answer: Answer = self.pipe.recv()
        return answer

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.join()


@contextlib.contextmanager
def writers(template: Path, count: int) -> Iterator[list[Writer]]:
    """So many of them."""
    found = [Writer.begin(template) for _ in range(count)]
    try:
        yield found
    finally:
        for writer in found:
            writer.end()


def _serve(pipe: Connection, template: str) -> None:
    """The child: one task after another."""
    plan, sequences, records = _content(Path(template))
    pipe.send("ready")
    while True:
        task: Task = pipe.recv()
        try:
            with contextlib.nullcontext() if task.freeze_at is None else _freezing_at(task.freeze_at):
                seal_pending(task, plan, sequences, records)
        except SadError as error:
            pipe.send(("refused", f"{error.exit_code} {error}"))
        except BaseException as error:
            pipe.send(("error", f"{type(error).__name__}: {error}"))
        else:
            pipe.send(("done", ""))


def seal_pending(task: Task, plan: Plan, sequences: Sequences, records: Records) -> None:
    """What cache-teacher does once the teacher has spoken."""
    run, length = RunDirectory(Path(task.run_dir)), plan.sequence_length
    with run.at_work("cache-teacher") if task.with_lock else contextlib.nullcontext():
        writer = CacheWriter(run.cache, plan, sequences, ENVIRONMENT)
        if task.with_lock:
            writer.remove_unfinished()
        else:  # what nobody holds may go, whoever else is at work
            files.sweep_temporary(run.cache / SHARDS_FOLDER)
        pending = TeacherCache.open(run.cache, *([task.root] if task.root else [])).missing
        Random(task.seed).shuffle(pending)
        for span in pending:
            writer.write(span, records.rows(slice(span.first * length, span.stop * length)))


@contextlib.contextmanager
def _freezing_at(number: int) -> Iterator[None]:
    """Send this process SIGSTOP before the so manieth call that others can see the effect of."""
    count, before = 0, [(owner, name, getattr(owner, name)) for owner, name in OPERATIONS]

    def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            if count == number:
                os.kill(os.getpid(), signal.SIGSTOP)
            count += 1
            return operation(*args, **kwargs)

        return call

    for owner, name, real in before:
        setattr(owner, name, counted(real))
    try:
        yield
    finally:
        for owner, name, real in before:
            setattr(owner, name, real)


# ------------------------------------------------------------------ caches to write


def make_template(folder: Path) -> dict[str, bytes]:
    """A cache of two shards in `folder`/whole, its bytes, and in `folder`/planned what it was before the first."""
    make_cache(folder / "whole", num_train=2, num_validation=2)
    (folder / "planned" / "cache").mkdir(parents=True)
    for name in (PLAN_NAME, SEQUENCES_NAME):
        shutil.copy(folder / "whole" / name, folder / "planned" / "cache" / name)
    return {path.name: path.read_bytes() for path in (folder / "whole" / "shards").iterdir()}


def _content(template: Path) -> tuple[Plan, StoredSequences, Records]:
    folder = template / "planned" / "cache"
    plan = Plan.load(folder / PLAN_NAME)
    sequences = StoredSequences.of(plan, folder / SEQUENCES_NAME)
    logits = logits_of(plan.num_sequences * plan.sequence_length, plan.vocab_size)
    return plan, sequences, records_of(plan.layout, logits)


def look(run_dir: Path, expected: dict[str, bytes]) -> set[str]:
    """Names of what is to be seen among the shards; each file must be whole, and no seal without its shard."""
    seen = set()
    names = sorted(path.name for path in (run_dir / "cache" / "shards").glob("[!.]*"))  # a seal before its shard
    for name in names:
        assert name in expected, f"{name} is no file of this cache"
        data = (run_dir / "cache" / "shards" / name).read_bytes()
        assert data == expected[name], f"{name}: {len(data):,} bytes are not the {len(expected[name]):,} it has"
        seen.add(name)
    for name in seen:
        if name.endswith(".seal.json"):
            assert (run_dir / "cache" / "shards" / name.replace(".seal.json", ".shard")).is_file(), f"{name} alone"
    return seen


def temporary_names(run_dir: Path) -> list[str]:
    """The kinds of temporaries there are: of a shard, a seal, a status."""
    found = [path.name for path in run_dir.rglob(".*.tmp")]
    kinds = {"seal.json": "seal", "shard": "shard", "status.json": "status"}
    return sorted({kind for name in found for part, kind in kinds.items() if f".{part}." in name})


def wait_for(seconds: float) -> None:
    """Let so many seconds pass, exactly."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        time.sleep(0.0002)
