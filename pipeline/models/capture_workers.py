"""Several teachers at a time: a process for each, on a card of its own, shards as they come.

What a shard holds does not depend on who scored it. The first process alone decides what is begun next, asks for room
and for time, and is asked to pause; the others score, write and seal.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import MutableSequence, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pipeline.cache.plan import ShardSpan
from pipeline.cache.roots import earlier_plan
from pipeline.cache.seal import Seal
from pipeline.cache.writer import CacheWriter
from pipeline.console import Progress
from pipeline.data.settings import DataSettings
from pipeline.errors import NumericsError
from pipeline.followers import POLL_SECONDS, Followers
from pipeline.models.device import choose_device, environment
from pipeline.models.planning import load_teacher, planned_sequences
from pipeline.models.settings import TeacherSettings
from pipeline.models.shard_room import ShardRoom
from pipeline.models.shard_scorer import ShardScorer
from pipeline.models.sharing import num_threads, share_threads, use_card
from pipeline.models.unscored import Unscored
from pipeline.pause import NoRoomError, PausedError, PauseRequest


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
        self._tokens = multiprocessing.get_context("spawn").RawArray("q", count)
        """scored so far, by each process"""
        self._told = 0
        self._followers = Followers(count, "teacher.workers", _begin, self._tokens, max(1, num_threads() // count), job)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: Any) -> None:
        self._followers.__exit__(*raised)

    def seal(self, pending: Sequence[ShardSpan], room: ShardRoom, pause: PauseRequest, progress: Progress) -> None:
        """Seal all of these shards; PausedError where a pause comes first, and what is under way then is finished
        unless it is asked for at once. NumericsError at the end where some cannot be scored."""
        waiting, at_work, unscored = deque(pending), dict[Future[Seal], tuple[ShardSpan, float]](), Unscored()
        stop: PausedError | None = None
        while waiting or at_work:
            while waiting and len(at_work) < self._followers.count and stop is None:
                stop = _stop(pause, room, list(waiting), [span for span, _ in at_work.values()])
                if stop is None:
                    span = waiting.popleft()
                    at_work[self._followers.submit(_seal, span)] = (span, time.monotonic())
            if stop is not None and not at_work:
                raise stop
            for future in wait(at_work, POLL_SECONDS, FIRST_COMPLETED).done:
                span, started = at_work.pop(future)
                try:
                    seal = self._followers.result(future)
                except NumericsError as error:
                    unscored.note(span, error)
                    continue
                unscored.sealed_one()
                room.learn(seal.size_bytes, seal.num_scored)
                pause.note_unit(time.monotonic() - started)
            self._show(progress, [span for span, _ in at_work.values()])
            pause.check()
        unscored.refuse()

    def _show(self, progress: Progress, at_work: Sequence[ShardSpan]) -> None:
        tokens = sum(self._tokens)
        if tokens > self._told:
            numbers = ", ".join(str(span.index + 1) for span in at_work)
            progress.advance(tokens - self._told, note=f"shards {numbers}" if numbers else "")
            self._told = tokens


def _stop(
    pause: PauseRequest, room: ShardRoom, waiting: Sequence[ShardSpan], at_work: Sequence[ShardSpan]
) -> PausedError | None:
    """Why the next shard must wait for another start, given what those under way will take."""
    if reason := pause.reason():
        return PausedError(reason)
    try:
        room.check(waiting, at_work=at_work)
    except NoRoomError as shortage:
        return shortage
    return None


# ------------------------------------------------------------------ in the other processes


class _Worker:
    """Scores shards with a teacher and a card of its own, taken for the first one: what fails then is told like any
    failure."""

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
        use_card(self._number, job.teacher.device)
        found = earlier_plan(job.folder, job.roots)
        assert found is not None, "the first process has made or found the plan"
        plan, folders = found
        sequences = planned_sequences(plan, folders, job.folder, job.data, job.teacher, self._pause)
        made_on = environment(choose_device(job.teacher.device))
        writer = CacheWriter(job.folder, plan, sequences, made_on)
        return ShardScorer(plan, sequences, load_teacher(plan, job.teacher), writer)

    def _advance(self, num_tokens: int) -> None:
        self._tokens[self._number] += num_tokens


_worker: _Worker


def _begin(pause: PauseRequest, number: int, tokens: MutableSequence[int], threads: int, job: Job) -> None:
    global _worker
    share_threads(threads)
    _worker = _Worker(job, number, pause, tokens)


def _seal(span: ShardSpan) -> Seal:
    return _worker.seal(span)
