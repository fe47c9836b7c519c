"""Which sequences a step trains on: arithmetic of (seed, step), so that a resume replays nothing.

An epoch puts the shards in random order, cuts that order into windows of a few shards, and shuffles the sequences of
each window together; the stream of sequences runs on from one epoch into the next, and a step takes the next batch of
it. A window keeps a reader at a few open shards, however large the cache. `curriculum.py` has other orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

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
        # The sequences of all spans, one after another; elsewhere here a sequence is its place in this row.
        self._numbers = np.concatenate(
            [np.arange(first, first + count, dtype=np.int64) for first, count in self._spans]
        )
        self.num_sequences = len(self._numbers)
        self._remember()

    def __getstate__(self) -> dict[str, Any]:
        """All but what it remembers, to go to another process."""
        return {name: value for name, value in vars(self).items() if name not in ("_epochs", "_shuffled")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._remember()

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """(First sequence, count) of the shards it goes over."""
        return self._spans

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in one pass over the sequences; batches straddle epochs, so it need not be whole."""
        return self.num_sequences / self.batch

    def sequences_for_step(self, step: int) -> NDArray[np.int64]:
        """Absolute sequence numbers [batch] of a step (from 0); shuffled, each comes exactly once an epoch."""
        position, stop = step * self.batch, (step + 1) * self.batch
        parts = []
        while position < stop:
            epoch, offset = divmod(position, self.num_sequences)
            ends = self._epochs(epoch)[1]
            part = int(np.searchsorted(ends, offset, side="right"))
            sequences = self._shuffled(epoch, part)
            begin = offset - (int(ends[part]) - len(sequences))
            parts.append(sequences[begin : begin + stop - position])
            position += len(parts[-1])
        return np.concatenate(parts)

    def _epoch_parts(self, epoch: int) -> list[NDArray[np.int64]]:
        """What is shuffled together, in the order it comes: of each window its places in `_numbers`.

        An order of its own gives other parts, of `num_sequences` places in all.
        """
        begins = np.cumsum([0, *(count for _, count in self._spans)])
        order = self._permutation(len(self._spans), epoch, 0)
        shards = [np.arange(begins[index], begins[index + 1], dtype=np.int64) for index in order]
        starts = range(0, len(shards), self.window_shards)
        return [np.concatenate(shards[start : start + self.window_shards]) for start in starts]

    def _remember(self) -> None:
        self._epochs = lru_cache(maxsize=2)(self._epoch_parts_and_ends)
        self._shuffled = lru_cache(maxsize=4)(self._shuffled_part)

    def _epoch_parts_and_ends(self, epoch: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
        """The parts of an epoch, and where in the epoch each ends."""
        parts = self._epoch_parts(epoch)
        return parts, np.cumsum([len(part) for part in parts])

    def _shuffled_part(self, epoch: int, number: int) -> NDArray[np.int64]:
        part = self._epochs(epoch)[0][number]
        return self._numbers[part[self._permutation(len(part), epoch, 1 + number)]]

    def _permutation(self, count: int, epoch: int, stream: int) -> NDArray[np.intp]:
        """A permutation of `count` things."""
        return np.argsort(self._words(count, epoch, stream), kind="stable")

    def _words(self, count: int, epoch: int, stream: int) -> NDArray[np.uint64]:
        """Counter-based random words.

        Sorting raw words, not Generator.permutation: NumPy keeps the words the same over its versions, the generator's
        methods it may change.
        """
        key = np.array([self.seed % _WORD, self.seed // _WORD % _WORD], np.uint64)  # a list would pass through floats
        counter = np.array([0, 0, stream, epoch], np.uint64)
        return np.asarray(np.random.Philox(key=key, counter=counter).random_raw(count), np.uint64)
