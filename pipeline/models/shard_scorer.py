"""One shard of a plan: scored batch by batch, written and sealed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.cache import Plan, Records
from pipeline.cache.plan import ShardSpan
from pipeline.cache.seal import Seal
from pipeline.cache.writer import CacheWriter
from pipeline.data.sequences import SequenceSource
from pipeline.models.sharing import on_its_card
from pipeline.models.teacher import Teacher
from pipeline.pause import PauseRequest
from pipeline.read_ahead import ReadAhead

Scored = Generator[Records, None, None]


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
        with beside_packing(self._records(span, pause, advance), self.teacher.device) as records:
            return self.writer.write(span, records)

    def _records(self, span: ShardSpan, pause: PauseRequest, advance: Callable[[int], None]) -> Scored:
        """A batch at a time; batches begin at the shard's first sequence."""
        batch_size = int(self.plan.capture["batch_size"])
        for first in range(span.first, span.stop, batch_size):
            pause.check()
            rows = np.arange(first, min(first + batch_size, span.stop))
            yield self.teacher.score(self.sequences, rows)
            advance(len(rows) * self.plan.sequence_length)


@contextlib.contextmanager
def beside_packing(records: Scored, device: torch.device) -> Iterator[Iterator[Records]]:
    """The same records; on a card the next batch is scored while the caller packs the last.

    The processor's own cores have nothing to spare meanwhile, and there a batch is scored when it is asked for.
    """
    if device.type != "cuda":
        with contextlib.closing(records):
            yield records
        return
    with ReadAhead(records, 1, "scorer", on_its_card(device)) as ahead:
        yield ahead
