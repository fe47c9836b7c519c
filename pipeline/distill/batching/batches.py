"""From cache to device: the micro-batches of a step, read ahead by a thread."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.cache import Records, TeacherCache
from pipeline.data.sequences import Sequences, SequenceSource
from pipeline.distill.batching.order import DataOrder
from pipeline.distill.loss.record_tensors import HostRecords, RecordTensors, on_host, to_device
from pipeline.distill.ranks import Ranks
from pipeline.models.sharing import on_its_card
from pipeline.read_ahead import ReadAhead

READ_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch: B sequences of T positions, N = B·T, n of them scored."""

    input_ids_BT: torch.Tensor  # int64
    position_ids_BT: torch.Tensor  # int64, restarting at each document
    labels_N: torch.Tensor  # int64
    weights_N: torch.Tensor  # float32, 0 where the label is masked
    records: RecordTensors | None  # None: labels only
    num_scored: int
    scored_n: torch.Tensor | None  # int64, which positions are scored; None: all of them
    sequences: tuple[int, ...] = ()  # B numbers in the cache; empty where they are of none
    num_scored_B: tuple[int, ...] = ()  # on the host, so that a card need not be asked where a row begins

    def scored(self, hidden_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, RecordTensors | None]:
        """Hidden states, labels and records of the scored positions alone."""
        rows = self.scored_n
        if rows is None:
            return hidden_ND, self.labels_N, self.records
        return hidden_ND[rows], self.labels_N[rows], None if self.records is None else self.records.rows(rows)

    def split(self, parts: int) -> list[Batch]:
        """At most `parts` batches of as many whole sequences each (the last may have fewer), on the same device."""
        num_rows = len(self.input_ids_BT)
        size = -(-num_rows // parts)
        if size >= num_rows:
            return [self]
        return [self._rows(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]

    def _rows(self, start: int, stop: int) -> Batch:
        length = self.input_ids_BT.shape[1]
        places = slice(start * length, stop * length)
        before, num_scored = sum(self.num_scored_B[:start]), sum(self.num_scored_B[start:stop])
        scored_n = None if self.scored_n is None else self.scored_n[before : before + num_scored] - start * length
        return Batch(
            input_ids_BT=self.input_ids_BT[start:stop],
            position_ids_BT=self.position_ids_BT[start:stop],
            labels_N=self.labels_N[places],
            weights_N=self.weights_N[places],
            records=None if self.records is None else self.records.rows(places),
            num_scored=num_scored,
            scored_n=scored_n,
            sequences=self.sequences[start:stop],
            num_scored_B=self.num_scored_B[start:stop],
        )


@dataclass(frozen=True, slots=True)
class HostBatch:
    """The same as it waits in host memory."""

    input_ids: torch.Tensor  # int64 [B, T+1]
    position_ids_BT: torch.Tensor
    weights_N: torch.Tensor
    scored_n: torch.Tensor | None
    records: HostRecords | None
    num_scored: int
    sequences: tuple[int, ...]
    num_scored_B: tuple[int, ...]

    @classmethod
    def of(
        cls, sequences: Sequences, records: Records | None, pinned: bool = False, numbers: tuple[int, ...] = ()
    ) -> Self:
        """From sequences, their `numbers` in the cache where they are of one, and what the teacher said of them."""
        mask_N = sequences.loss_mask.reshape(-1)
        return cls(
            input_ids=on_host(sequences.input_ids.astype(np.int64), pinned),
            position_ids_BT=on_host(sequences.position_ids(slice(None)), pinned),
            weights_N=on_host(mask_N.astype(np.float32), pinned),
            # Found here, because asking a card which weights are not zero makes it wait.
            scored_n=None if mask_N.all() else on_host(np.flatnonzero(mask_N), pinned),
            records=None if records is None else HostRecords.from_records(records, pinned),
            num_scored=int(mask_N.sum()),
            sequences=numbers,
            num_scored_B=tuple(sequences.loss_mask.sum(axis=1).tolist()),
        )

    def to(self, device: torch.device) -> Batch:
        """On the device where the student learns from it."""
        input_ids = to_device(self.input_ids, device)
        return Batch(
            input_ids_BT=input_ids[:, :-1],
            position_ids_BT=to_device(self.position_ids_BT, device),
            labels_N=input_ids[:, 1:].reshape(-1),
            weights_N=to_device(self.weights_N, device),
            records=None if self.records is None else RecordTensors.from_host(self.records, device),
            num_scored=self.num_scored,
            scored_n=None if self.scored_n is None else to_device(self.scored_n, device),
            sequences=self.sequences,
            num_scored_B=self.num_scored_B,
        )


def load_batch(cache: TeacherCache, indices: np.ndarray, device: torch.device, with_records: bool) -> Batch:
    """Read sequences, and the teacher's records where they are wanted, on to a device."""
    return _read(cache, indices, with_records, pinned=False).to(device)


def make_batch(sequences: Sequences, records: Records | None, device: torch.device) -> Batch:
    """Put sequences, and what the teacher said of their positions, on a device."""
    return HostBatch.of(sequences, records).to(device)


@dataclass(slots=True)
class StepBatches:
    """What one rank learns from in an optimizer step; each micro-batch comes to the device as it is taken.

    The first time it is gone through they come from the reader, which holds them no longer then; where a step has to be
    done again, they are read again.
    """

    step: int
    num_scored: int
    """scored positions of all micro-batches of the step, those of other ranks too"""
    batches: Iterator[Batch]
    read_again: Callable[[int], Iterator[Batch]]
    begun: bool = False

    def __iter__(self) -> Iterator[Batch]:
        if self.begun:
            return self.read_again(self.step)
        self.begun = True
        return self.batches


class RecordSource(Protocol):
    """Where sequences and their records come from: a cache, or a teacher in memory."""

    @property
    def sequences(self) -> SequenceSource:
        """All of them, by number."""

    def read(self, indices: NDArray[np.integer[Any]]) -> tuple[Sequences, Records]:
        """Some of them [B, T+1], and what the teacher says of their positions [B·T]."""


class BatchReader:
    """Iterates over the steps; one thread reads their micro-batches ahead, and time spent waiting for it is counted.

    What a step trains on is `order.sequences_for_step(step)`, of which a rank reads its share, cut into micro-batches:
    nothing here has a state that a resume would have to restore. Memory is bounded whatever the accumulation: at most
    READ_AHEAD + 1 micro-batches wait on the host (with K = 256, about 2.3 kB a position), pinned where the device is a
    card; on the device is the one that is learned from, and for a moment the one that follows it.
    """

    def __init__(
        self,
        source: RecordSource,
        order: DataOrder,
        steps: range,
        batch_size: int,
        device: torch.device,
        with_records: bool,
        ranks: Ranks | None = None,
    ) -> None:
        """`ranks` are those that share each step; without them all of it is read."""
        # The loop validates on the cache while another thread reads: by a copy, with open files and a lock of its own,
        # neither waits for the other.
        self._own_source, self._source, self._order, self._steps = source, copy.copy(source), order, steps
        self._share = (ranks or Ranks()).share(order.batch)
        self._left = 0  # micro-batches of the step under way that were not taken yet
        self._batch_size, self._device, self._with_records = batch_size, device, with_records
        self._ahead = ReadAhead(self._host_batches(), READ_AHEAD, "batch-reader", on_its_card(device))

    @property
    def wait_seconds(self) -> float:
        """That the loop has waited for micro-batches."""
        return self._ahead.wait_seconds

    def __iter__(self) -> Iterator[StepBatches]:
        with self._ahead:
            for step in self._steps:
                self._left = -(-(self._share.stop - self._share.start) // self._batch_size)
                num_scored, first = self._take()
                yield StepBatches(step, num_scored, self._batches_of_step(first), self._read_again)
                while self._left:  # what was not asked for must not be taken for the next step's
                    self._take()

    def _batches_of_step(self, first: HostBatch) -> Iterator[Batch]:
        yield first.to(self._device)
        while self._left:
            yield self._take()[1].to(self._device)

    def _read_again(self, step: int) -> Iterator[Batch]:
        """The micro-batches of a step once more, read on the thread that asks."""
        for part in self._parts(self._order.sequences_for_step(step)[self._share]):
            yield _read(self._own_source, part, self._with_records, pinned=False).to(self._device)

    def _parts(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        return (indices[start : start + self._batch_size] for start in range(0, len(indices), self._batch_size))

    def _take(self) -> tuple[int, HostBatch]:
        """The next micro-batch, with the number of scored positions of its whole step."""
        item = next(self._ahead)
        self._left -= 1
        return item

    def _host_batches(self) -> Generator[tuple[int, HostBatch], None, None]:
        """All that this rank takes, one step after another."""
        pinned = self._device.type == "cuda"
        for step in self._steps:
            indices = self._order.sequences_for_step(step)
            num_scored = int(self._source.sequences.scored_counts[indices].sum())
            for part in self._parts(indices[self._share]):
                yield num_scored, _read(self._source, part, self._with_records, pinned)


def _read(source: RecordSource, indices: np.ndarray, with_records: bool, pinned: bool) -> HostBatch:
    numbers = tuple(indices.tolist())
    if with_records:
        return HostBatch.of(*source.read(indices), pinned, numbers)
    return HostBatch.of(source.sequences.select(indices), None, pinned, numbers)
