"""One shard of a plan: scored batch by batch, written and sealed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.cache import Plan, Records
from pipeline.cache.plan import ShardSpan
from pipeline.cache.seal import Seal
from pipeline.cache.writer import CacheWriter
from pipeline.data.sequences import SequenceSource
from pipeline.models.teacher import Teacher
from pipeline.pause import PauseRequest


@dataclass(frozen=True, slots=True)
class ShardScorer:
    """A teacher, the text it reads, and where its records go."""

    plan: Plan
    sequences: SequenceSource
    teacher: Teacher
    writer: CacheWriter

    def seal(self, span: ShardSpan, pause: PauseRequest, advance: Callable[[int], None]) -> Seal:
        """Score and seal a shard; `advance` is told the tokens of each batch.

        PausedError where a pause is asked for meanwhile: the shard is given up.
        """
        return self.writer.write(span, self._records(span, pause, advance))

    def _records(self, span: ShardSpan, pause: PauseRequest, advance: Callable[[int], None]) -> Iterator[Records]:
        """A batch at a time; batches begin at the shard's first sequence."""
        batch_size = int(self.plan.capture["batch_size"])
        for first in range(span.first, span.stop, batch_size):
            pause.check()
            rows = np.arange(first, min(first + batch_size, span.stop))
            yield self.teacher.score(self.sequences, rows)
            advance(len(rows) * self.plan.sequence_length)
