"""Which sequences a step trains on: arithmetic of (seed, step), so that a resume replays nothing.

An epoch puts the shards in random order, cuts that order into windows of a few shards, and shuffles the sequences of
each window together; the stream of sequences runs on from one epoch into the next, and a step takes the next batch of
it. A window keeps a reader at a few open shards, however large the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

_WORD = 2**64


class DataOrder:
    """The order of the training sequences; two with equal arguments give equal answers, in any process.

    `spans` are (first sequence, count) of the shards to train on; `batch` is the number of sequences of an optimizer
    step, accumulation and all ranks included.
    """

    def __init__(self, spans: Sequence[tuple[int, int]], seed: int, window_shards: int, batch: int) -> None:
        self._spans = tuple((int(first), int(count)) for first, count in spans if count > 0)
        if not self._spans:
            raise ConfigError("data order: expected at least one training sequence, found none in the sealed shards")
        self.seed, self.window_shards, self.batch = seed, window_shards, batch
        self.num_sequences = sum(count for _, count in self._spans)
        self._windows = lru_cache(maxsize=4)(self._epoch_windows)
        self._shuffled = lru_cache(maxsize=4)(self._shuffled_window)

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in one pass over the sequences; batches straddle epochs, so it need not be whole."""
        return self.num_sequences / self.batch

    def sequences_for_step(self, step: int) -> NDArray[np.int64]:
        """Absolute sequence numbers [batch] of a step (from 0); over an epoch each sequence comes exactly once."""
        position, stop = step * self.batch, (step + 1) * self.batch
        parts = []
        while position < stop:
            epoch, offset = divmod(position, self.num_sequences)
            ends = self._windows(epoch)[1]
            window = int(np.searchsorted(ends, offset, side="right"))
            sequences = self._shuffled(epoch, window)
            begin = offset - (int(ends[window]) - len(sequences))
            parts.append(sequences[begin : begin + stop - position])
            position += len(parts[-1])
        return np.concatenate(parts)

    def _epoch_windows(self, epoch: int) -> tuple[list[list[tuple[int, int]]], NDArray[np.int64]]:
        """The windows of an epoch as lists of spans, and where in the epoch each ends."""
        order = self._permutation(len(self._spans), epoch, 0)
        shards = [self._spans[index] for index in order]
        windows = [shards[start : start + self.window_shards] for start in range(0, len(shards), self.window_shards)]
        return windows, np.cumsum([sum(count for _, count in window) for window in windows])

    def _shuffled_window(self, epoch: int, window: int) -> NDArray[np.int64]:
        spans = self._windows(epoch)[0][window]
        sequences = np.concatenate([np.arange(first, first + count, dtype=np.int64) for first, count in spans])
        return sequences[self._permutation(len(sequences), epoch, 1 + window)]

    def _permutation(self, count: int, epoch: int, stream: int) -> NDArray[np.intp]:
        """A permutation of `count` from counter-based random words.

        Sorting raw words, not Generator.permutation: NumPy keeps the words the same over its versions, the generator's
        methods it may change.
        """
        key = np.array([self.seed % _WORD, self.seed // _WORD % _WORD], np.uint64)  # a list would pass through floats
        counter = np.array([0, 0, stream, epoch], np.uint64)
        words = np.random.Philox(key=key, counter=counter).random_raw(count)
        return np.argsort(words, kind="stable")
