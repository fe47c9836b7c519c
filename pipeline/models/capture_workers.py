"""Several teachers at a time: a process for each, on a card of its own, shards as they come.

What a shard holds does not depend on who scored it. The first process alone decides what is begun next, asks for room
and for time, and is asked to pause; the others score, write and seal.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import MutableSequence, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.cache.plan import ShardSpan
from pipeline.cache.roots import earlier_plan
from pipeline.cache.seal import Seal
from pipeline.cache.writer import CacheWriter
from pipeline.console import Progress
from pipeline.data.settings import DataSettings
from pipeline.errors import MachineError
from pipeline.followers import FollowedPause, follow
from pipeline.models.device import choose_device, environment, num_threads, share_threads, use_card
from pipeline.models.planning import load_teacher, planned_sequences
from pipeline.models.settings import TeacherSettings
from pipeline.models.shard_room import ShardRoom
from pipeline.models.shard_scorer import ShardScorer
from pipeline.pause import PausedError, PauseRequest

_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Job:
    """What a process needs to score shards of the plan in `folder`, or in roots beside it."""

    folder: Path
    roots: list[Path]
    data: DataSettings
    teacher: TeacherSettings


class CaptureWorkers:
    """Scores and seals shards, `count` at a time. Use as a context manager."""

    def __init__(self, job: Job, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.count = count
        # A count for each, without a lock: one that is killed would keep it for good.
        self._stop, self._tokens = context.Event(), context.RawArray("q", count)
        self._before = set(multiprocessing.active_children())
        given = (self._stop, self._tokens, context.Value("i", 0), max(1, num_threads() // count), job)
        self._pool = ProcessPoolExecutor(count, context, _begin, given)
        self._told = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()  # whatever is still under way gives up its shard
        self._pool.shutdown(cancel_futures=True)

    def seal(self, pending: Sequence[ShardSpan], room: ShardRoom, pause: PauseRequest, progress: Progress) -> None:
        """Seal all of these shards; PausedError where a pause comes first, and what is under way then is finished
        unless it is asked for at once."""
        waiting, at_work = deque(pending), dict[Future[Seal], tuple[ShardSpan, float]]()
        reason: str | None = None
        while waiting or at_work:
            while waiting and len(at_work) < self.count and reason is None:
                reason = pause.reason() or _no_room(room, list(waiting), [span for span, _ in at_work.values()])
                if reason is None:
                    span = waiting.popleft()
                    at_work[self._pool.submit(_seal, span)] = (span, time.monotonic())
            if reason is not None and not at_work:
                raise PausedError(reason)
            for future in wait(at_work, _POLL_SECONDS, FIRST_COMPLETED).done:
                _, started = at_work.pop(future)
                seal = self._result(future)
                room.learn(seal.size_bytes, seal.num_scored)
                pause.note_unit(time.monotonic() - started)
            self._show(progress, [span for span, _ in at_work.values()])
            pause.check()

    def _result(self, future: Future[Seal]) -> Seal:
        try:
            return future.result()
        except BrokenProcessPool as error:
            # The one that was killed may have held what the others wait for, and they leave signals to this process.
            for process in set(multiprocessing.active_children()) - self._before:
                process.kill()
            raise MachineError(
                "teacher.workers: one of the processes that score shards was killed; the system does that where memory "
                "runs out. What is sealed stays: run the same command again, with --workers 1 if it happens again."
            ) from error

    def _show(self, progress: Progress, at_work: Sequence[ShardSpan]) -> None:
        tokens = sum(self._tokens)
        if tokens > self._told:
            numbers = ", ".join(str(span.index + 1) for span in at_work)
            progress.advance(tokens - self._told, note=f"shards {numbers}" if numbers else "")
            self._told = tokens


def _no_room(room: ShardRoom, waiting: Sequence[ShardSpan], at_work: Sequence[ShardSpan]) -> str | None:
    """Why the next shard must wait for another start, given what those under way will take."""
    try:
        room.check(waiting, at_work=at_work)
    except PausedError as shortage:
        return str(shortage)
    return None


# ------------------------------------------------------------------ in the other processes


class _Worker:
    """Scores shards with a teacher of its own, loaded for the first one: what fails then is told like any failure."""

    def __init__(self, job: Job, number: int, pause: PauseRequest, tokens: MutableSequence[int]) -> None:
        self._job, self._number, self._pause, self._tokens = job, number, pause, tokens
        self._scorer: ShardScorer | None = None

    def seal(self, span: ShardSpan) -> Seal:
        """Score and seal a shard; PausedError where the first process asks for a pause."""
        self._pause.check()
        if self._scorer is None:
            self._scorer = self._load()
        return self._scorer.seal(span, self._pause, self._advance)

    def _load(self) -> ShardScorer:
        job = self._job
        found = earlier_plan(job.folder, job.roots)
        assert found is not None, "the first process has made or found the plan"
        plan, folders = found
        sequences = planned_sequences(plan, folders, job.folder, job.data, job.teacher, self._pause)
        made_on = environment(choose_device(job.teacher.device))
        writer = CacheWriter(job.folder, plan, sequences, made_on, alone=False)
        return ShardScorer(plan, sequences, load_teacher(plan, job.teacher), writer)

    def _advance(self, num_tokens: int) -> None:
        self._tokens[self._number] += num_tokens


_worker: _Worker


def _begin(stop: Event, tokens: MutableSequence[int], taken: Synchronized[int], threads: int, job: Job) -> None:
    global _worker
    follow()
    share_threads(threads)
    with taken.get_lock():
        number = taken.value
        taken.value += 1
    use_card(number, job.teacher.device)
    _worker = _Worker(job, number, FollowedPause(stop), tokens)


def _seal(span: ShardSpan) -> Seal:
    return _worker.seal(span)
