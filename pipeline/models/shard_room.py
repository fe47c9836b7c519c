"""Room for the next shard, asked before it is scored: one that finds none when it is written is lost work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.cache.plan import ShardSpan
from pipeline.cache.seal import Seal
from pipeline.cache.writer import bytes_per_position
from pipeline.data.sequences import SequenceSource
from pipeline.errors import NumericsError
from pipeline.models.teacher import Teacher
from pipeline.output_limit import OutputLimit, figure
from pipeline.pause import NoRoomError

ROOM_FOR_A_SHARD = 1.25
"""of what it would take by those so far: texts differ, and what is sealed may pack better than what comes"""
_BESIDE_BYTES = 16_384  # the seal, and what a shard holds beside its records
_SMALLER = "Raise it, or make shards smaller with cache.shard_positions (for a new cache, in a new --run-dir)."

_IN_ANOTHER_SESSION = (
    "What is sealed stays: make this output an input of the next session, name its folder in cache.roots, and go on in "
    "an empty run directory. Or make room here, or raise the limit (--max-output-gb)."
)


class ShardRoom:
    """What shards will take, by the bytes of a scored position so far, and whether there is room for it.

    Without a limit nothing is counted or measured: then the disk is asked as soon as something else has shown what they
    take.
    """

    def __init__(self, output: OutputLimit, sequences: SequenceSource, seals: Iterable[Seal] = ()) -> None:
        self._output, self._sequences = output, sequences
        self._size_bytes, self._num_scored = 0.0, 0
        for seal in seals:
            self.learn(seal.size_bytes, seal.num_scored)

    def learn(self, size_bytes: float, num_scored: int) -> None:
        """Take account of records that were packed."""
        self._size_bytes += size_bytes
        self._num_scored += num_scored

    def measure(self, teacher: Teacher, span: ShardSpan) -> None:
        """Where nothing is sealed yet, score the first batch of a shard; it is scored again with its shard.

        Where that is not finite the shard will say so, and others may be: what they take is then known from the first.
        """
        if not self.must_measure:
            return
        rows = np.arange(span.first, min(span.first + teacher.batch_size, span.stop))
        mask_ST = self._sequences.select(rows).loss_mask
        try:
            records = teacher.score(self._sequences, rows)
        except NumericsError:
            return
        self.learn(bytes_per_position(records, mask_ST) * mask_ST.size, max(1, int(np.count_nonzero(mask_ST))))

    def expected_bytes(self, spans: Sequence[ShardSpan]) -> float:
        """What these shards take at most, unless their text is quite another one."""
        counts_S = self._sequences.scored_counts
        num_scored = sum(int(counts_S[span.first : span.stop].sum()) for span in spans)
        return ROOM_FOR_A_SHARD * num_scored * self._size_bytes / max(1, self._num_scored) + _BESIDE_BYTES * len(spans)

    @property
    def must_measure(self) -> bool:
        """Whether there is a limit, and nothing is known yet of what a shard takes."""
        return self._output.max_bytes is not None and not self._num_scored

    def check(self, spans: Sequence[ShardSpan], beside_bytes: int = 0, at_work: Sequence[ShardSpan] = ()) -> None:
        """NoRoomError where there is no room for the next of these shards, beside those `at_work` and `beside_bytes`.

        ConfigError where an empty folder would not have it for the largest either. Neither while nothing is known of
        what they take.
        """
        if not self._num_scored:
            return
        text = " with the packed text" if beside_bytes else ""
        largest = max(self.expected_bytes([span]) for span in spans) + beside_bytes
        self._output.refuse_less_than(largest, f"one shard of this cache{text}", _SMALLER)
        outlook = (
            f"What is left to do, {len(spans)} shard{'s' * (len(spans) > 1)}, takes about "
            f"{figure(self.expected_bytes(spans))}. "
        )
        needed_bytes = self.expected_bytes([*spans[:1], *at_work]) + beside_bytes
        if reason := self._output.shortage(needed_bytes, f"the next shard{text}", _IN_ANOTHER_SESSION, outlook):
            raise NoRoomError(reason)
