"""How fast one process reads a cache, every checksum verified, and in how much memory.

A position counts as read when its sequence's records are in memory; what is scored and what is masked count alike.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.benches.peak import peak_extra_bytes
from pipeline.benches.results import Result, measured
from pipeline.benches.rounds import alternate
from pipeline.cache import TeacherCache
from pipeline.cache.records import Records
from pipeline.console import say
from pipeline.data.sequences import TRAIN
from pipeline.distill.batching.batches import BatchReader
from pipeline.distill.batching.order import DataOrder

BATCH = 8
"""Sequences read at once"""
RATE_GOAL = 200_000
"""Positions a second"""
_MEMORY_BATCHES = 5.0  # a batch's records, those it is joined from, and what decoding a chunk of them takes


def bench_reader(cache: TeacherCache, folder: Path, window_shards: int, rounds: int) -> list[Result]:
    """Rates in the order training reads, in file order, and through the batch reader; and the memory of reading all."""
    spans = [(span.first, span.count) for span in cache.sealed if span.split == TRAIN]
    order = DataOrder(spans, seed=0, window_shards=window_shards, batch=min(BATCH, sum(count for _, count in spans)))
    num_batches = order.num_sequences // order.batch
    shuffled = [order.sequences_for_step(step) for step in range(num_batches)]
    in_order = np.split(np.sort(np.concatenate(shuffled)), num_batches)
    positions = num_batches * order.batch * cache.plan.sequence_length
    say(f"bench reader: {positions:,} positions in {len(spans)} shards, {rounds} rounds a side")
    sides: dict[str, Callable[[], object]] = {
        "positions_per_second": lambda: _read(cache, shuffled),
        "positions_per_second.in_order": lambda: _read(cache, in_order),
        "batch_reader_positions_per_second": lambda: _read_ahead(cache, order, num_batches),
    }
    rates = {name: positions / median(seconds) for name, seconds in alternate(sides, rounds).items()}
    goals = {"positions_per_second": RATE_GOAL}
    return [
        *(measured(f"reader.{name}", rate, "1/s", at_least=goals.get(name)) for name, rate in rates.items()),
        *_memory(cache, folder),
        measured("reader.positions", positions, "positions"),
    ]


def _read(cache: TeacherCache, batches: list[NDArray[np.int64]]) -> None:
    for batch in batches:
        cache.read(batch)


def _read_ahead(cache: TeacherCache, order: DataOrder, num_steps: int) -> None:
    """As training does, without learning anything."""
    device = torch.device("cpu")
    for step in BatchReader(cache, order, range(num_steps), order.batch, device, with_records=True):
        for _ in step:
            pass


def _memory(cache: TeacherCache, folder: Path) -> list[Result]:
    records = Records.blank(cache.plan.layout, 1)
    batch_bytes = BATCH * cache.plan.sequence_length * sum(field.nbytes for field in records.fields())
    bound_mb = _MEMORY_BATCHES * batch_bytes / 1e6
    found = peak_extra_bytes("pipeline.benches.reader", "memory_of_reading", folder=str(folder))
    return [measured("reader.peak_memory_mb", found / 1e6, "MB", at_most=round(bound_mb, 1))]


def memory_of_reading(folder: str, device: str = "cpu") -> Callable[[], None]:
    """Reading every sealed sequence of a cache once, a batch at a time, from its opening on."""

    def work() -> None:
        with TeacherCache.open(folder) as cache:
            for span in cache.sealed:
                for first in range(span.first, span.stop, BATCH):
                    cache.read(np.arange(first, min(first + BATCH, span.stop)))

    return work
