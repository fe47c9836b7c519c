"""Trainings of `bench quality` several at a time: processes that share the cores, and stop when the first one says so.

A training of a small student keeps one core busy and leaves the next one half idle, so two at a time with one thread
each are done sooner than one after the other with two.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import Any, Self

from pipeline.benches.quality.plan import Trial
from pipeline.cache import TeacherCache
from pipeline.followers import POLL_SECONDS, Followers
from pipeline.models.sharing import num_threads, share_threads
from pipeline.pause import PausedError, PauseRequest
from pipeline.runs import RunDirectory, Session
from stages.config import RunConfig
from stages.quality_trainings import Ground, train


class Workers:
    """Trains on one ground, `count` trainings at a time; with one, in this process. Use as a context manager."""

    def __init__(self, ground: Ground, count: int) -> None:
        self._ground = ground
        self._followers: Followers | None = None
        if count > 1:
            given = (ground.root, ground.config, ground.session.command, ground.cache, ground.caches)
            self._followers = Followers(count, "--workers", _begin, max(1, num_threads() // count), *given)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: Any) -> None:
        if self._followers is not None:
            self._followers.__exit__(*raised)

    def train(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """Do these trainings and give each as it is done; PausedError where they are paused."""
        if self._followers is None:
            for trial in trials:
                train(self._ground, trial)
                yield trial
            return
        waiting = {self._followers.submit(_train, trial): trial for trial in trials}
        while waiting:
            for future in wait(waiting, POLL_SECONDS, FIRST_COMPLETED).done:
                self._followers.result(future)
                yield waiting.pop(future)
            if (reason := self._ground.session.pause.reason()) is not None:
                raise PausedError(reason)  # those under way save at the end of the context


# ------------------------------------------------------------------ in the other processes


_make_ground: Callable[[], Ground]


def _begin(
    pause: PauseRequest,
    number: int,
    threads: int,
    root: Path,
    config: RunConfig,
    command: list[str],
    cache: TeacherCache,
    caches: dict[str, TeacherCache],
) -> None:
    """Made with the first training, which can say what is wrong with it: here it would look as if it was killed."""
    global _make_ground
    share_threads(threads)
    session = Session(RunDirectory(root), pause, command)
    _make_ground = functools.cache(lambda: Ground.over(root, config, session, cache, caches))


def _train(trial: Trial) -> None:
    ground = _make_ground()
    ground.session.pause.check()
    train(ground, trial)
