"""Orders of the data that follow what the teacher found difficult; like the shuffled one, arithmetic of (seed, step).

    easy_first   the sequences are ranked by difficulty over the whole of what is trained on, and the ranking is cut
                 into levels of equal size (±1). An epoch goes through the levels, the easiest first; within a level the
                 sequences come as in the shuffled order, window after window of shards
    hard_first   the same from the hardest level
    weighted     a sequence s of difficulty d_s comes e_s = (1 − h) + h·d_s/mean(d) times an epoch, where h is
                 `hard_share`: rounded up or down by systematic sampling, with one random offset an epoch

What is exact: every epoch has as many places as there are sequences. In levels, every sequence comes once an epoch and
no sequence of a level before the last of the one before it; after `curriculum_epochs` epochs the order is that of
`shuffled`, bit for bit. Weighted, a sequence comes ⌊e_s⌋ or ⌈e_s⌉ times, e_s on average over offsets, so that it is in
an epoch with a chance of at least 1 − h, and surely where it is no easier than the mean.

What is not: within a level there is no order. A complete sort would take each step from all shards at once. Levels keep
a reader at `window_shards` open shards; they open each shard `curriculum_levels` times an epoch instead of once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.console import warn_once
from pipeline.data.sequences import TRAIN
from pipeline.distill.batching.difficulty import difficulties
from pipeline.distill.batching.lessons import Lessons
from pipeline.distill.batching.order import DataOrder
from pipeline.distill.settings import TrainSettings
from pipeline.errors import ConfigError
from pipeline.pause import PauseRequest

_OFFSET_STREAM = 2**64 - 1  # of the random words; the windows' count up from 1


class LevelOrder(DataOrder):
    """Levels of difficulty one after another in the first `num_epochs` epochs, then shuffled."""

    def __init__(
        self,
        spans: Sequence[tuple[int, int]],
        seed: int,
        window_shards: int,
        batch: int,
        difficulty_S: NDArray[np.float64],
        num_levels: int,
        num_epochs: int,
        hardest_first: bool = False,
    ) -> None:
        """`difficulty_S` is of the sequences of `spans`, one after another; the rest as of DataOrder."""
        super().__init__(spans, seed, window_shards, batch)
        sign = -1.0 if hardest_first else 1.0
        ranked_S = np.argsort(sign * _checked(difficulty_S, self), kind="stable")
        self._num_levels, self._num_epochs = num_levels, num_epochs
        self._level_S = np.empty(self.num_sequences, np.int64)
        self._level_S[ranked_S] = np.arange(self.num_sequences) * num_levels // self.num_sequences

    def _epoch_parts(self, epoch: int) -> list[NDArray[np.int64]]:
        windows = super()._epoch_parts(epoch)
        if epoch >= self._num_epochs:
            return windows
        return [window[self._level_S[window] == level] for level in range(self._num_levels) for window in windows]


class WeightedOrder(DataOrder):
    """Difficult sequences more often, easy ones sometimes left out; as many places an epoch as there are sequences."""

    def __init__(
        self,
        spans: Sequence[tuple[int, int]],
        seed: int,
        window_shards: int,
        batch: int,
        difficulty_S: NDArray[np.float64],
        hard_share: float,
    ) -> None:
        """`difficulty_S` is of the sequences of `spans`, one after another; the rest as of DataOrder."""
        super().__init__(spans, seed, window_shards, batch)
        self._ends_S = np.cumsum(expected_copies(_checked(difficulty_S, self), hard_share))
        self._ends_S[-1] = self.num_sequences  # which it is but for rounding

    def copies(self, epoch: int) -> NDArray[np.int64]:
        """How often each sequence comes in an epoch [S], in the order of the spans."""
        offset = float(self._words(1, epoch, _OFFSET_STREAM)[0] >> np.uint64(11)) / 2**53
        # Points at offset, offset + 1, ...: each sequence gets those within its stretch of the line.
        before_S = np.ceil(np.concatenate([[0.0], self._ends_S]) - offset).astype(np.int64)
        return np.diff(before_S)

    def _epoch_parts(self, epoch: int) -> list[NDArray[np.int64]]:
        copies_S = self.copies(epoch)
        return [np.repeat(window, copies_S[window]) for window in super()._epoch_parts(epoch)]


def expected_copies(difficulty_S: NDArray[np.float64], hard_share: float) -> NDArray[np.float64]:
    """e_s = (1 − h) + h·d_s/mean(d); 1 for all where nothing is difficult."""
    mean = math.fsum(difficulty_S) / len(difficulty_S)
    if mean == 0:
        return np.ones(len(difficulty_S))
    copies_S: NDArray[np.float64] = (1 - hard_share) + hard_share * difficulty_S / mean
    return copies_S


def in_curriculum(lessons: Lessons, settings: TrainSettings, folder: Path, pause: PauseRequest) -> Lessons:
    """The lessons in the order the settings ask for; where that needs difficulties they are kept in `folder`.

    PausedError where a pause is due while they are measured.
    """
    if settings.data_order == "shuffled":
        return lessons
    cache, order = lessons.cache, lessons.order
    spans = [span for span in cache.sealed if span.split == TRAIN and (span.first, span.count) in order.spans]
    difficulty_S = difficulties(cache, spans, settings.difficulty, folder, pause)
    places = (order.spans, order.seed, order.window_shards, order.batch, difficulty_S)
    if settings.data_order == "weighted":
        return dataclasses.replace(lessons, order=WeightedOrder(*places, settings.hard_share))
    _say_what_is_never_seen(lessons, settings)
    hardest_first = settings.data_order == "hard_first"
    levels = LevelOrder(*places, settings.curriculum_levels, settings.curriculum_epochs, hardest_first)
    return dataclasses.replace(lessons, order=levels)


def _checked(difficulty_S: NDArray[np.float64], order: DataOrder) -> NDArray[np.float64]:
    """The difficulties as they are, or a ConfigError where they are not one finite number, at least 0, a sequence."""
    if difficulty_S.shape != (order.num_sequences,) or not (np.isfinite(difficulty_S) & (difficulty_S >= 0)).all():
        raise ConfigError(
            f"data order: expected {order.num_sequences:,} difficulties of 0 nats or more, one a sequence, found "
            f"{difficulty_S.size:,}, of which {int((~(difficulty_S >= 0)).sum()):,} are not. Delete the run's "
            "student/difficulty folder, so that they are measured again"
        )
    return difficulty_S


def _say_what_is_never_seen(lessons: Lessons, settings: TrainSettings) -> None:
    share = lessons.num_steps / lessons.order.steps_per_epoch
    if share < 1:
        end = "easiest" if settings.data_order == "hard_first" else "hardest"
        warn_once(
            f"train.data_order is {settings.data_order} and this training ends after {share:.0%} of its first epoch: "
            f"the {end} sequences are never learned from. Raise train.steps (or train.epochs)"
        )
