"""Trainings of `bench quality` several at a time: processes that share the cores, and stop when the first one says so.

A training of a small student keeps one core busy and leaves the next one half idle, so two at a time with one thread
each are done sooner than one after the other with two.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.synchronize import Event
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.benches.quality.plan import Trial
from pipeline.cache import TeacherCache
from pipeline.followers import FollowedPause, follow
from pipeline.models.device import num_threads, share_threads
from pipeline.pause import PausedError
from pipeline.runs import RunDirectory, Session
from stages.config import RunConfig
from stages.quality_trainings import Ground, train

_POLL_SECONDS = 0.2


class Workers:
    """Trains on one ground, `count` trainings at a time; with one, in this process. Use as a context manager."""

    def __init__(self, ground: Ground, count: int) -> None:
        self._ground = ground
        self._pool: ProcessPoolExecutor | None = None
        if count > 1:
            context = multiprocessing.get_context("spawn")
            self._stop = context.Event()
            threads = max(1, num_threads() // count)
            given = (ground.root, ground.config, ground.session.command, ground.cache, ground.caches)
            self._pool = ProcessPoolExecutor(count, context, _begin, (self._stop, threads, *given))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._stop.set()  # whatever is still under way saves and ends
            self._pool.shutdown(cancel_futures=True)

    def train(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """Do these trainings and give each as it is done; PausedError where they are paused."""
        if self._pool is None:
            for trial in trials:
                train(self._ground, trial)
                yield trial
            return
        waiting = {self._pool.submit(_train, trial): trial for trial in trials}
        while waiting:
            done, _ = wait(waiting, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                yield waiting.pop(future)
            self._follow(waiting)

    def _follow(self, waiting: dict[Future[None], Trial]) -> None:
        """Where a pause is asked for here: let the others save, and pause."""
        if (reason := self._ground.session.pause.reason()) is not None:
            self._stop.set()
            for future in waiting:
                future.cancel()
            wait(waiting)
            raise PausedError(reason)


# ------------------------------------------------------------------ in the other processes


_ground: Ground


def _begin(
    stop: Event,
    threads: int,
    root: Path,
    config: RunConfig,
    command: list[str],
    cache: TeacherCache,
    caches: dict[str, TeacherCache],
) -> None:
    global _ground
    follow()
    share_threads(threads)
    session = Session(RunDirectory(root), FollowedPause(stop), command)
    _ground = Ground.over(root, config, session, cache, caches)


def _train(trial: Trial) -> None:
    _ground.session.pause.check()
    train(_ground, trial)
