"""Several processes on one cache, of which one is frozen past its turn: nothing is lost, torn, or two things at once.

A command holds the run directory's lock, so of several one writes and the others are told who does, also while that one
is frozen. Writers without that lock, as a library's, may write the same shard at once, and one may wake up long after
another took over: the bytes are the same.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from pipeline.cache import TeacherCache
from tests.reliability import writers
from tests.reliability.kills import CAPTURE, what_lasts
from tests.reliability.tally import LONG, Tally
from tests.reliability.writers import Answer, Task, Writer
from tests.stages.toys import Toy, copy, start, wait

POINTS_A_CHUNK, CHUNKS = (125, 4) if LONG else (25, 2)  # of each of two tests
COMMANDS = 10 if LONG else 2
NUM_WRITERS = 3


class Bench:
    """The writers, and the cache that they write again and again."""

    def __init__(self, folder: Path) -> None:
        self.expected, self.folder = writers.make_template(folder), folder
        self.writers = [Writer.begin(folder) for _ in range(NUM_WRITERS)]
        self.seconds = 0.05
        self._number = 0

    def fresh(self) -> Path:
        """A run directory with a plan and no shard."""
        self._number += 1
        return copy(self.folder / "planned", self.folder / f"run-{self._number}")

    def replace(self, writer: Writer) -> None:
        """Another in the place of one that was killed."""
        writer.end()
        self.writers[self.writers.index(writer)] = Writer.begin(self.folder)

    def watch_until(self, run_dirs: list[Path], waiting: list[Writer]) -> None:
        """Look at the shards as long as these writers work."""
        until = time.monotonic() + 30
        while not all(writer.pipe.poll() for writer in waiting):
            assert time.monotonic() < until, "a writer waits for another without end"
            for run_dir in run_dirs:
                writers.look(run_dir, self.expected)
            time.sleep(0.002)

    def check_whole(self, run_dirs: list[Path]) -> None:
        """All is sealed, as it should be, and nothing else is left; then it is taken away."""
        found = [writers.look(run_dir, self.expected) for run_dir in run_dirs]
        assert set.union(*found) == self.expected.keys(), f"missing: {self.expected.keys() - set.union(*found)}"
        for run_dir in run_dirs:
            assert list(run_dir.rglob(".*.tmp")) == []
        with TeacherCache.open(*run_dirs) as cache:
            assert cache.complete
        for run_dir in run_dirs:
            shutil.rmtree(run_dir)


@pytest.fixture(scope="module")
def bench(memory: Path) -> Iterator[Bench]:
    """Made once a module: a writer is a process that has done its imports."""
    made = Bench(memory / "writers")
    try:
        yield made
    finally:
        for writer in made.writers:
            writer.end()


# ------------------------------------------------------------------ without a lock


def race(bench: Bench, random: Random, folders: int) -> str | None:
    """All write at once, one of them frozen until the others are done; where it was frozen, None where it was not."""
    run_dirs = [bench.fresh() for _ in range(folders)]
    for number, writer in enumerate(bench.writers):
        own, root = run_dirs[number % folders], run_dirs[(number + 1) % folders] if folders > 1 else ""
        writer.pipe.send(Task(str(own), with_lock=False, seed=random.getrandbits(30), root=str(root)))
    frozen = random.choice(bench.writers)
    others = [writer for writer in bench.writers if writer is not frozen]
    began = time.monotonic()
    writers.wait_for(random.uniform(0, bench.seconds))
    frozen.tell(signal.SIGSTOP)
    try:
        at_work = not frozen.pipe.poll()
        bench.watch_until(run_dirs, others)
        bench.seconds = 0.9 * bench.seconds + 0.1 * min(0.2, time.monotonic() - began)
        answers = [writer.answer() for writer in others]
        left = writers.temporary_names(run_dirs[0]) + writers.temporary_names(run_dirs[-1])
        if folders == 1:
            assert writers.look(run_dirs[0], bench.expected) == bench.expected.keys(), "the others did not take over"
    finally:
        frozen.tell(signal.SIGCONT)
    bench.watch_until(run_dirs, [frozen])
    answers.append(frozen.answer())
    assert answers == [("done", "")] * NUM_WRITERS, answers
    bench.check_whole(run_dirs)
    return None if not at_work else f"with a temporary {left[0]}" if left else "between two files"


@pytest.mark.parametrize("folders", [1, 2])
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_writers_of_one_cache_at_once(chunk: int, folders: int, bench: Bench, tally: Tally) -> None:
    wanted, tries = (POINTS_A_CHUNK, 4) if folders == 1 else (POINTS_A_CHUNK // 5, 20)
    for seed in tally.seeds(chunk, wanted, tries):
        try:
            place = race(bench, Random(seed), folders)
        except AssertionError as error:
            raise AssertionError(f"race(bench, Random({seed}), {folders}): {error}") from error
        if place is not None:
            tally.point(f"{folders} folders, a writer frozen {place}")


@pytest.mark.parametrize("with_lock", [False, True])
def test_a_writer_frozen_before_each_of_its_operations(with_lock: bool, bench: Bench, tally: Tally) -> None:
    """Others go over all of it meanwhile: without a lock they do its work, with one they are refused."""
    first, second, *_ = bench.writers
    for operation in itertools.count():
        run_dir, again = bench.fresh(), f"frozen before operation {operation}, with_lock={with_lock}"
        task = Task(str(run_dir), with_lock, seed=operation)
        first.pipe.send(dataclasses.replace(task, freeze_at=operation))
        while not (frozen := first.is_frozen()) and not first.pipe.poll():
            time.sleep(0.0005)
        if not frozen:
            assert first.answer() == ("done", ""), again
            bench.check_whole([run_dir])
            break
        try:
            second.pipe.send(task)
            bench.watch_until([run_dir], [second])
            answer = second.answer()
        finally:
            first.tell(signal.SIGCONT)
        bench.watch_until([run_dir], [first])
        answers = [first.answer(), answer]
        if with_lock:
            assert _check_refusals(answers, bench.writers) <= 1, f"{again}: {answers}"
        else:
            assert answers == [("done", "")] * 2, f"{again}: {answers}"
        bench.check_whole([run_dir])
        tally.point(f"a writer frozen before an operation{', with the lock' * with_lock}")
    assert tally.points >= 20


# ------------------------------------------------------------------ with the lock of a run


def contest(bench: Bench, random: Random, end: signal.Signals) -> str | None:
    """All want the run directory; one is frozen, or killed, and the rest ask once more. None where it was too late."""
    run_dir = bench.fresh()
    task = Task(str(run_dir), with_lock=True, seed=random.getrandbits(30))
    for writer in bench.writers:
        writer.pipe.send(task)
    hit = random.choice(bench.writers)
    writers.wait_for(random.uniform(0, bench.seconds / 2))
    hit.tell(end)
    others, held = [writer for writer in bench.writers if writer is not hit], ""
    if end is signal.SIGSTOP:
        late = hit.pipe.poll()
        bench.watch_until([run_dir], others)
        answers = [writer.answer() for writer in others]
        unsigned = not (run_dir / ".lock").read_bytes()  # frozen with the lock in hand, before or after its word in it
        refused = _check_refusals(answers, bench.writers, unsigned)
        if all(answer[0] == "refused" for answer in answers):
            was_whole = writers.look(run_dir, bench.expected) == bench.expected.keys()
            others[0].pipe.send(task)
            if _check_refusals([others[0].answer()], [hit], unsigned):
                held = ", holding the lock"
            else:
                assert was_whole, "the lock was given twice"  # it had let go of it, and only not yet said so
        hit.tell(signal.SIGCONT)
        bench.watch_until([run_dir], [hit])
        last = hit.answer()
        assert last[0] == "done" or _check_refusals([last], others), last
        refused += last[0] == "refused"
    else:
        hit.process.join()
        late = hit.pipe.poll()  # its answer came before
        answers = [writer.answer() for writer in others]
        refused = _check_refusals(answers, bench.writers)
        held = ", holding the lock" if all(answer[0] == "refused" for answer in answers) and not late else ""
        bench.replace(hit)
    for _ in range(2):  # nothing of the lock or of what was begun is in the way, and nothing is left to do then
        bench.writers[0].pipe.send(task)
        assert bench.writers[0].answer() == ("done", "")
    bench.check_whole([run_dir])
    if late or not refused:
        return None
    return f"one {'frozen' if end is signal.SIGSTOP else 'killed'}{held}"


def _check_refusals(answers: list[Answer], holders: list[Writer], unsigned: bool = False) -> int:
    """How many were refused: all that are not done, and each was told the process that held the lock.

    Where the one who holds it has not signed it, nobody can be told; whoever is named is a holder all the same.
    """
    refused = [said for what, said in answers if what != "done"]
    assert all(what in ("done", "refused") for what, _ in answers), answers
    for said in refused:
        assert said.startswith("7 "), said
        assert "another process is already at work in this run directory" in said, said
        named = any(f"It is process {writer.pid} on " in said for writer in holders)
        assert named or (unsigned and "It is process" not in said), said
    return len(refused)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_of_writers_with_the_lock_one_writes_and_the_others_are_told_who(
    chunk: int, bench: Bench, tally: Tally
) -> None:
    for seed in tally.seeds(chunk, POINTS_A_CHUNK, tries=40):
        end = signal.SIGKILL if seed % 8 == 0 else signal.SIGSTOP
        try:
            kind = contest(bench, Random(seed), end)
        except AssertionError as error:
            raise AssertionError(f"contest(bench, Random({seed}), {end.name}): {error}") from error
        if kind is not None:
            tally.point(f"{NUM_WRITERS} on one run directory, {kind}")


# ------------------------------------------------------------------ the commands themselves


def test_commands_on_one_run_directory(toy: Toy, cached: Path, tmp_path: Path, tally: Tally) -> None:
    for seed in range(COMMANDS):
        run_dir = tmp_path / f"run-{seed}"
        logs = [tmp_path / f"{seed}-{number}.log" for number in range(NUM_WRITERS)]
        first = start(toy.command(CAPTURE, run_dir), logs[0])
        while not (run_dir / "status.json").is_file():
            time.sleep(0.001)
        writers.wait_for(Random(seed).uniform(0, 0.4))
        holder = Writer(first, None)  # type: ignore[arg-type]
        holder.tell(signal.SIGSTOP)
        assert first.is_alive(), f"Random({seed}): it was quicker"
        try:
            for log in logs[1:]:
                assert wait(start(toy.command(CAPTURE, run_dir), log)) == 7
                assert f"It is process {first.pid} on " in log.read_text(), log.read_text()
        finally:
            holder.tell(signal.SIGCONT)
        assert wait(first) == 0, logs[0].read_text()
        assert what_lasts(run_dir) == what_lasts(cached)
        tally.point("commands on one run directory, the first frozen")
    assert tally.points == COMMANDS
