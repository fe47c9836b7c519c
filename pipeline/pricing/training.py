"""What a training step costs: a few real ones, on records in memory."""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass

import numpy as np

from pipeline.cache.records import Records
from pipeline.console import Progress
from pipeline.data.sequences import Sequences
from pipeline.distill.batching.batches import Batch, make_batch
from pipeline.distill.batching.lessons import count_steps
from pipeline.distill.learner import Learner
from pipeline.distill.settings import TrainSettings
from pipeline.distill.validation import validate_batches
from pipeline.evaluation.memory import MemoryMeter, card_of, weights_bytes
from pipeline.models import CausalModel
from pipeline.models.device import choose_dtype
from pipeline.models.student import recompute_activations
from pipeline.pricing.memory import TrainingMemory, all_checkpoints_bytes

_LEAST_STEPS, _MOST_STEPS = 2, 6
_ENOUGH_SECONDS = 30.0  # of training: then no further step is begun


@dataclass(frozen=True, slots=True)
class TrainingProbe:
    """A few steps of a training, and what it leaves on disk."""

    seconds_per_step: float
    """median of a whole optimizer step"""
    validation_seconds_per_batch: float
    """of train.batch_size sequences, through raw weights and, where there are any, through averaged ones"""
    checkpoint_bytes: int
    checkpoints_bytes: int
    """the most that all kept ones take at once, the best weights and one that is being written included"""
    model_bytes: int
    """of the finished student"""
    memory: TrainingMemory


def num_steps_on(num_sequences: int, settings: TrainSettings) -> int:
    """Optimizer steps of a whole training on so many sequences."""
    return count_steps(settings, num_sequences / (settings.batch_size * settings.accumulation))


def probe_training(
    causal: CausalModel, settings: TrainSettings, num_steps: int, sequences: Sequences, records: Records
) -> TrainingProbe:
    """Train `causal` for a few steps on these sequences, again and again the same; it is of no use afterwards.

    The first step is not timed: it allocates.
    """
    if settings.gradient_checkpointing:
        recompute_activations(causal)
    weights, card = weights_bytes(causal.model), card_of(causal.device)
    meter = None if card is None else MemoryMeter(causal.model, card)
    with contextlib.nullcontext() if meter is None else meter.own_pass():
        learner = Learner(causal, settings, num_steps, choose_dtype(settings.dtype, causal.device))
        batch = _first_batch(sequences, records, learner)
        seconds = _time_steps(learner, batch)
    return TrainingProbe(
        seconds_per_step=seconds,
        validation_seconds_per_batch=_time_validation(learner, batch),
        checkpoint_bytes=learner.checkpoint_bytes,
        checkpoints_bytes=all_checkpoints_bytes(learner.checkpoint_bytes, weights),
        model_bytes=weights,
        memory=memory_of(learner, weights, None if meter is None else meter.peak_bytes),
    )


def _first_batch(sequences: Sequences, records: Records, learner: Learner) -> Batch:
    """A micro-batch of the size the settings name; sequences come again where there are too few."""
    rows = np.resize(np.arange(sequences.num_sequences), learner.settings.batch_size)
    length = sequences.sequence_length
    places_N = (rows[:, None] * length + np.arange(length)).reshape(-1)
    return make_batch(sequences.select(rows), records.rows(places_N), learner.device)


def _time_steps(learner: Learner, batch: Batch) -> float:
    """Seconds of a step, median."""
    accumulation = learner.settings.accumulation
    batches, num_scored = [batch] * accumulation, batch.num_scored * accumulation
    paces: list[float] = []
    with Progress("training a few steps", 1 + _MOST_STEPS, "steps") as progress:
        for step in range(1 + _MOST_STEPS):
            started = time.monotonic()
            learner.learn(step, batches, num_scored)
            paces.append(time.monotonic() - started)
            progress.advance(1)
            if step >= _LEAST_STEPS and sum(paces) > _ENOUGH_SECONDS:
                break
    return statistics.median(paces[1:])


def _time_validation(learner: Learner, batch: Batch) -> float:
    """Seconds of a batch, in pieces as small as the steps were found to need, or smaller ones."""
    memory = learner.memory

    def seconds() -> float:
        started = time.monotonic()
        for weights in learner.weight_kinds:
            with learner.holding(weights) as causal:
                validate_batches(causal, batch.split(memory.parts), memory.chunk_positions, learner.autocast_dtype)
        return time.monotonic() - started

    return memory.until_it_fits(seconds)


def memory_of(learner: Learner, weights: int, peak: int | None = None) -> TrainingMemory:
    """The known parts of what a training needs; `weights` are the student's bytes, `peak` what a card has shown."""
    head = learner.causal.head
    on_card = learner.device.type != "cpu"
    matrix = 0 if head.weight_VD is None else head.weight_VD.numel()
    trained = sum(p.numel() * p.element_size() for p in learner.causal.model.parameters() if p.requires_grad)
    return TrainingMemory.of(learner.settings, weights, trained, matrix, learner.causal.num_effective, on_card, peak)
