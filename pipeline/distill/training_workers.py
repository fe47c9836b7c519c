"""Several processes that train one student, each on a card of its own; the first of them is the command's.

The first alone holds the run: it logs, validates, saves, exports, and is asked to pause. The others load what it has
loaded, take every step with it, write nothing, and are ended when it has no further step: where they are in their work
then does not matter.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, wait
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.cache import TeacherCache
from pipeline.console import say, warn_once
from pipeline.distill.batching.batches import BatchReader
from pipeline.distill.batching.order import DataOrder
from pipeline.distill.keeping.checkpoint import open_checkpoint
from pipeline.distill.learner import Learner
from pipeline.distill.ranks import Ranks, joined, meeting_place
from pipeline.distill.settings import TrainSettings
from pipeline.errors import ConfigError
from pipeline.followers import POLL_SECONDS, Followers
from pipeline.models.cache_tokenizer import tokenizer_of
from pipeline.models.device import choose_device
from pipeline.models.settings import Device, StudentSettings
from pipeline.models.sharing import count_busy_cards, count_workers, num_threads, share_threads, use_card
from pipeline.pause import PauseRequest

SETTING = "train.workers"
_PARTING_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Job:
    """What a process needs to take the steps of a training from where it stands."""

    cache: TeacherCache
    """as the first process opened it: which copy of a shard counts is decided once"""
    student: StudentSettings
    settings: TrainSettings
    autocast_dtype: torch.dtype
    order: DataOrder
    steps: range
    num_steps: int
    """of the whole training"""
    checkpoint: Path | None
    """to go on from; None at the first step"""


def count_ranks(settings: TrainSettings, device: Device) -> int:
    """How many processes are to share each step: as many as are asked for, else one a card, on the CPU one.

    ConfigError where more are asked for than a step has sequences, MachineError where there are fewer cards.
    """
    num_sequences = settings.batch_size * settings.accumulation
    if settings.workers is not None and settings.workers > num_sequences:
        raise ConfigError(
            f"{SETTING}: expected at most {num_sequences}, the sequences of a step (train.batch_size x "
            f"train.accumulation), found {settings.workers}: each process takes some of them. Set {SETTING} lower, or "
            "in a new run train.accumulation higher."
        )
    count = count_workers(settings.workers, device, SETTING)
    if count > num_sequences:
        warn_once(f"a step has {num_sequences} sequences, so {num_sequences} of {count} cards are used ({SETTING})")
    return min(count, num_sequences)


def count_training_cards(settings: TrainSettings, device: Device) -> int:
    """How many times faster these processes are than one: on a CPU, whose cores they share, not at all."""
    return min(count_ranks(settings, device), count_busy_cards(settings.workers, device, SETTING))


@contextlib.contextmanager
def working_together(count: int, job: Job, device: torch.device, pause: PauseRequest) -> Iterator[Ranks]:
    """In the block `count` processes do the job, this one on `device` with the ranks it is given.

    Where another one fails its error is raised here, and MachineError where one is killed, from the ranks' methods.
    PausedError where a pause is asked for before all of them are there: then nothing was begun.
    """
    if count == 1:
        yield Ranks()
        return
    say(f"{count} processes share each step ({SETTING})")
    threads_before = num_threads()
    threads = max(1, threads_before // count)
    place = meeting_place()
    with Followers(count - 1, SETTING, _begin, threads, with_the_first=True) as others:
        try:
            futures = [others.submit(_take_part, place, count, job) for _ in range(count - 1)]

            def news(seconds: float) -> None:
                for future in wait(futures, seconds, FIRST_EXCEPTION).done:
                    others.result(future)

            def arriving(seconds: float) -> None:
                pause.check_beginning()
                news(seconds)

            share_threads(threads)
            with joined(place, 0, count, device, news, arriving) as ranks, contextlib.ExitStack() as parting:
                parting.callback(others.end_within, _PARTING_SECONDS)  # the connections may wait for what they send
                yield ranks
        finally:
            others.end_within(_PARTING_SECONDS)
            share_threads(threads_before)


# ------------------------------------------------------------------ in the other processes

_pause: PauseRequest
_number: int


def _begin(pause: PauseRequest, number: int, threads: int) -> None:
    global _pause, _number
    _pause, _number = pause, number + 1
    share_threads(threads)


def _take_part(place: str, count: int, job: Job) -> None:
    """Take every step of the job. What fails here is told by the first; where a process begins it would not be."""
    use_card(_number, job.student.device)
    settings = job.settings.model_copy(update={"ema_decay": 0.0})  # the average is the first one's
    device = choose_device(job.student.device)
    cache = job.cache
    tokenizer = tokenizer_of(cache.plan, cache.folders)
    learner = Learner.of(job.student, tokenizer, settings, job.num_steps, device, job.autocast_dtype)
    if job.checkpoint is not None:
        learner.load(open_checkpoint(job.checkpoint))
    with joined(place, _number, count, device, _until_the_end) as learner.ranks:
        reader = BatchReader(
            cache, job.order, job.steps, settings.batch_size, device, settings.needs_teacher, learner.ranks
        )
        for batches in reader:
            learner.learn(batches.step, batches, batches.num_scored)


def _until_the_end(seconds: float) -> None:
    """All the news there is here: whoever is lost, the first one says so, and ends this one too."""
    deadline = time.monotonic() + seconds
    while True:
        _pause.check()
        left = deadline - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, POLL_SECONDS))
