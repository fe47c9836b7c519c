"""Orders of the data, each given back from a few bytes: by one process, or by several that share its steps."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path
from random import Random
from typing import Any

import torch

from pipeline.cache import TeacherCache
from pipeline.config import keys_of_kind
from pipeline.data.sequences import VALIDATION
from pipeline.distill.batching.batches import BatchReader
from pipeline.distill.batching.curriculum import in_curriculum
from pipeline.distill.batching.lessons import plan_lessons
from pipeline.distill.keeping.identity import frozen_to
from pipeline.distill.ranks import Ranks
from pipeline.distill.settings import TrainSettings
from pipeline.pause import PauseRequest
from tests.stages.toys import PRELOADED

KINDS = ("shuffled", "easy_first", "hard_first", "weighted")
ORDER_KEYS = (
    "batch_size", "accumulation", "window_shards", "seed", "data_order", "difficulty", "curriculum_levels",
    "curriculum_epochs", "hard_share",
)  # fmt: skip
MOST_STATE_BYTES = 1000
Share = list[tuple[int, int, list[int]]]
"""(step, rank, its sequences in the order it learns from them)"""


@dataclass(frozen=True, slots=True)
class Case:
    """One training's order: its kind, its settings, and the shards it is frozen to."""

    number: int
    settings: TrainSettings
    frozen_shards: list[int] | None

    @classmethod
    def of(cls, number: int, cache: TeacherCache) -> Case:
        """Case number `number`: everything about it follows from the number."""
        random, kind = Random(number), KINDS[number % len(KINDS)]
        values: dict[str, Any] = {"steps": 1, "data_order": kind, "seed": random.choice([0, 1, 2**40 + number, number])}
        values |= {"batch_size": random.randint(1, 6), "accumulation": random.randint(1, 3)}
        values |= {"window_shards": random.choice([1, 2, 3, 7, 100])}
        if kind != "shuffled":
            values["difficulty"] = random.choice(["entropy", "surprise"])
        if kind in ("easy_first", "hard_first"):
            values |= {"curriculum_levels": random.randint(2, 9), "curriculum_epochs": random.randint(1, 3)}
        if kind == "weighted":
            values["hard_share"] = random.choice([0.1, 0.5, 0.9])
        shards = [span.index for span in cache.sealed]
        held_out = [span.index for span in cache.plan.spans(VALIDATION)]
        frozen = None
        if random.random() < 0.4:  # begun on an unfinished cache: on some of its shards, one of them held out
            frozen = sorted({*random.sample(shards, random.randint(4, len(shards) - 1)), held_out[0]})
        return cls(number, TrainSettings.model_validate(values), frozen)

    def state(self, step: int, plan_hash: str) -> bytes:
        """What a resume of the order at `step` needs, cut out of what a checkpoint keeps."""
        training = {"plan": plan_hash, "frozen_shards": self.frozen_shards and frozen_to(self.frozen_shards)}
        return order_state(step, training | {"train": keys_of_kind(self.settings, "schedule")})


def order_state(step: int, training: dict[str, Any]) -> bytes:
    """The same of any training, from what a checkpoint says identifies it."""
    train = {key: training["train"][key] for key in ORDER_KEYS}
    state = {"step": step, "plan": training["plan"], "frozen_shards": training["frozen_shards"], "train": train}
    return json.dumps(state).encode()


@contextmanager
def processes(count: int) -> Iterator[Pool]:
    """Processes that have done the imports and know nothing of the orders."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with context.Pool(count) as pool:
        yield pool


def share_of(state: bytes, folder: str, difficulty: str, rank: int, world: int, rows: int, stop: int) -> Share:
    """What process `rank` of `world` learns from, from the state's step up to `stop`, `rows` sequences at a time.

    It opens the cache and makes the order anew: nothing is left of whoever made the state.
    """
    known = json.loads(state)
    settings = TrainSettings.model_validate({"steps": 1} | known["train"])
    with TeacherCache.open(folder) as cache:
        assert cache.plan.hash == known["plan"]
        lessons = plan_lessons(cache, settings, known["frozen_shards"])
        lessons = in_curriculum(lessons, settings, Path(difficulty), PauseRequest())
        steps = range(known["step"], stop)
        ranks = Ranks(rank, world)  # as a training of several processes has them: who takes what is the product's word
        reader = BatchReader(lessons.source, lessons.order, steps, rows, torch.device("cpu"), False, ranks)
        return [(batches.step, rank, [row for batch in batches for row in batch.sequences]) for batches in reader]


def joined(shares: list[Share]) -> list[list[int]]:
    """The sequences of every step, rank by rank."""
    steps: dict[int, list[int]] = {}
    for step, _, sequences in sorted(part for share in shares for part in share):
        steps.setdefault(step, []).extend(sequences)
    return [steps[step] for step in sorted(steps)]
