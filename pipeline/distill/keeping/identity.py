"""What makes a training this one and no other: compared with what is on disk before anything is computed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.cache.plan import Plan
from pipeline.config import keys_of_kind
from pipeline.distill.keeping.checkpoint import newest_checkpoint
from pipeline.distill.settings import TrainSettings
from pipeline.models.settings import StudentSettings
from pipeline.models.student import student_identity

Identity = dict[str, Any]
"""As JSON, which checkpoints keep."""
FrozenShards = list[int | list[int]]
"""[first, last] of each run of shards that a training is frozen to"""
_SCHEDULE = keys_of_kind(TrainSettings(steps=1), "schedule")


def schedule_identity(plan: Plan, train: TrainSettings) -> Identity:
    """What it learns from and how, whichever student it is that learns."""
    return {"plan": plan.hash, "train": keys_of_kind(train, "schedule")}


def training_identity(plan: Plan, student: StudentSettings, train: TrainSettings) -> Identity:
    """The same with the student that learns."""
    return schedule_identity(plan, train) | {"student": student_identity(student)}


def training_hash(training: Identity) -> str:
    """SHA-256 of an identity."""
    return hashlib.sha256(files.canonical_json(training)).hexdigest()


def identity_in(state: Mapping[str, Any]) -> Identity:
    """The identity in a checkpoint's state, but for keys of `train` that no longer make a training another one."""
    training = state.get("training")
    if not isinstance(training, dict) or not isinstance(train := training.get("train"), dict):
        return {}
    free = set(TrainSettings.model_fields) - {key.partition(".")[0] for key in _SCHEDULE}
    return training | {"train": {key: value for key, value in train.items() if key not in free}}


def is_of(state: Mapping[str, Any], part: Identity) -> bool:
    """Whether a checkpoint is of a training whose identity has this in it."""
    training = identity_in(state)
    return all(training.get(key) == value for key, value in part.items())


def frozen_to(indices: Iterable[int]) -> FrozenShards:
    """Shards in the few numbers that a thousand of them take, for an identity."""
    ranges: list[list[int]] = []
    for index in sorted(indices):
        if ranges and ranges[-1][1] + 1 == index:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return list(ranges)


def shards_in(frozen: FrozenShards) -> list[int]:
    """What `frozen_to` was given; single indices stand for themselves, as they once were kept."""
    spans = ((part, part) if isinstance(part, int) else part for part in frozen)
    return [index for first, last in spans for index in range(first, last + 1)]


def frozen_shards_of(training: Identity, folder: Path, roots: Iterable[Path]) -> FrozenShards | None:
    """The shards that an earlier start of this training, on an unfinished cache, was frozen to; None if there is none.

    `training` is its identity but for those shards; its checkpoints are in `folder` or in read-only roots.
    """
    rest = _without_shards(training)

    def is_frozen(state: dict[str, Any]) -> bool:
        other = identity_in(state)
        return other.get("frozen_shards") is not None and _without_shards(other) == rest

    earlier = newest_checkpoint([folder], is_frozen, roots=roots, whole=False)
    return None if earlier is None else earlier.state["training"]["frozen_shards"]


def _without_shards(training: Identity) -> Identity:
    return {key: value for key, value in training.items() if key != "frozen_shards"}
