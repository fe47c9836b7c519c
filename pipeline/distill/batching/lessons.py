"""What a training learns from: the sealed part of a cache, and the order its sequences come in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.cache import TeacherCache
from pipeline.cache.layout import RecordLayout
from pipeline.console import warn_once
from pipeline.data.sequences import TRAIN
from pipeline.distill.batching.batches import RecordSource
from pipeline.distill.batching.live_records import LiveRecords
from pipeline.distill.batching.order import DataOrder
from pipeline.distill.keeping.identity import FrozenShards, shards_in
from pipeline.distill.settings import SAMPLED_OBJECTIVES, TrainSettings
from pipeline.errors import ConfigError, IncompleteInputError
from pipeline.models import Teacher


@dataclass(frozen=True, slots=True)
class Lessons:
    """A cache as a training sees it."""

    cache: TeacherCache
    order: DataOrder
    num_steps: int
    validation_indices: np.ndarray
    teacher: Teacher | None = None
    """in memory, and asked in place of the cache; validation is against the cache all the same"""

    @property
    def source(self) -> RecordSource:
        """Where the records come from that it learns from."""
        return self.cache if self.teacher is None else LiveRecords(self.teacher, self.cache.sequences)

    @property
    def step_positions(self) -> int:
        """Positions an optimizer step goes over, masked ones included."""
        return self.order.batch * self.cache.plan.sequence_length


def plan_lessons(
    cache: TeacherCache,
    settings: TrainSettings,
    frozen_shards: FrozenShards | None,
    teacher: Teacher | None = None,
) -> Lessons:
    """Lay out a training on the shards it is frozen to, or (None) on the whole of a complete cache.

    IncompleteInputError where a shard that is needed is not sealed; ConfigError for a target that records of the
    cache's kind cannot give.
    """
    if frozen_shards is None and not cache.complete:
        raise IncompleteInputError(
            f"{cache.folders[0]}: {len(cache.sealed)} of {len(cache.plan.shards)} shards are sealed. Run cache-teacher "
            "until it is complete, or train on what is there with --use-sealed-only."
        )
    layout = cache.plan.layout if teacher is None else teacher.layout
    if unfit := unfit_target(str(cache.folders[0]), layout, settings):
        raise ConfigError(unfit)
    wanted = None if frozen_shards is None else set(shards_in(frozen_shards))
    spans = [span for span in cache.sealed if wanted is None or span.index in wanted]
    if wanted is not None and (gone := sorted(wanted - {span.index for span in spans})):
        raise IncompleteInputError(
            f"{cache.folders[0]}: this training was begun on {len(wanted)} shards, and {gone} of them are not "
            "here. Name the folder that holds them in cache.roots, or run cache-teacher again."
        )
    train = [(span.first, span.count) for span in spans if span.split == TRAIN]
    held_out = [np.arange(span.first, span.first + span.count) for span in spans if span.split != TRAIN]
    if not train or not held_out:
        raise IncompleteInputError(
            f"{cache.folders[0]}: expected a sealed training shard and a sealed validation shard, found {len(train)} "
            f"and {len(held_out)}. Run cache-teacher again."
        )
    validation_indices = spread(np.concatenate(held_out), settings.validation_sequences)
    if not cache.sequences.scored_counts[validation_indices].any():
        raise IncompleteInputError(
            f"{cache.folders[0]}: expected scored labels to validate on, found none in the {len(validation_indices)} "
            "held-out sequences that were chosen. Raise train.validation_sequences, or run cache-teacher until more of "
            "them are sealed."
        )
    order = DataOrder(train, settings.seed, settings.window_shards, settings.batch_size * settings.accumulation)
    num_train = sum(count for _, count in train)
    num_steps = count_steps(settings, order.steps_per_epoch)
    _note_what_is_odd(settings, order, num_train, num_steps)
    return Lessons(
        cache=cache,
        order=order,
        num_steps=num_steps,
        validation_indices=validation_indices,
        teacher=teacher,
    )


def _note_what_is_odd(settings: TrainSettings, order: DataOrder, num_train: int, num_steps: int) -> None:
    if order.batch > num_train:
        warn_once(
            f"a step takes {order.batch:,} sequences (train.batch_size x train.accumulation) and there are "
            f"{num_train:,} to learn from: each step sees some of them more than once"
        )
    if settings.warmup_steps >= num_steps:
        warn_once(
            f"train.warmup_steps is {settings.warmup_steps:,} and this training has {num_steps:,} steps: it ends while "
            "the learning rate still rises, below train.learning_rate"
        )
    for name, switch in settings.idle.items():
        value = getattr(settings, name)
        found = value if isinstance(value, str) else f"{value:g}"
        warn_once(f"train.{name} is {found} and does nothing without train.{switch}")


def unfit_target(place: str, layout: RecordLayout, settings: TrainSettings) -> str | None:
    """Why records of this layout cannot give the objective or the temperature that a training asks of them.

    None where they can; `place` is where the cache lies.
    """
    if layout.kind == "sampled":
        return _what_sampled_lacks(place, settings)
    if "kd" in settings.parts and settings.objective == "sampled_tail" and _lacks_draws(layout):
        return (
            f"{place}: this cache is made without tail draws (cache.num_draws: 0), from which the objective "
            "sampled_tail estimates the tail. Set train.objective to bucket, or make a cache with draws."
        )
    return None


def _lacks_draws(layout: RecordLayout) -> bool:
    """Whether there is a tail and nothing was drawn from it."""
    return layout.num_tail_draws == 0 and layout.head_size < layout.vocab_size


def _what_sampled_lacks(place: str, settings: TrainSettings) -> str | None:
    """Draws of all ids at temperature 1 say nothing of another temperature, nor of another divergence."""
    temperature, parts = settings.temperature, settings.parts
    place = f"{place}: this cache is of the kind sampled, whose ids were drawn at temperature 1"
    if "rank" in parts:
        return (
            f"{place}, by chance; train.rank_weight asks for the teacher's order of its likeliest ids, and counts of a "
            "few draws leave most ids out and tie most others. Set train.rank_weight and train.rank_weight_end to 0, "
            "or make a cache of the kind topk or compact."
        )
    if "kd" not in parts:
        return None
    if (temperature.start, temperature.end) != (1.0, 1.0):
        return (
            f"{place}; train.temperature is {temperature.start:g} to {temperature.end:g}. Set both ends to 1, or make "
            "a cache of the kind topk or compact."
        )
    if settings.objective not in SAMPLED_OBJECTIVES:
        return (
            f"{place} and estimate the whole divergence; train.objective is {settings.objective}. Set it to "
            f"{' or '.join(SAMPLED_OBJECTIVES)}, or make a cache of the kind topk or compact."
        )
    return None


def count_steps(settings: TrainSettings, steps_per_epoch: float) -> int:
    """Optimizer steps of a whole training."""
    if settings.steps is not None:
        return settings.steps
    assert settings.epochs is not None
    return max(1, math.ceil(settings.epochs * steps_per_epoch))


def spread(indices: np.ndarray, count: int | None) -> np.ndarray:
    """At most `count` of the indices (None: all), evenly spaced: neighbours are often of one document."""
    if count is None or count >= len(indices):
        return indices
    return indices[np.arange(count) * len(indices) // count]
