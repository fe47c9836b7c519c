"""From cache to device: the micro-batches of a step, read ahead by a thread."""

from __future__ import annotations

import copy
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.cache import Records, TeacherCache
from pipeline.data.sequences import Sequences
from pipeline.distill.order import DataOrder
from pipeline.distill.record_tensors import RecordTensors

_READ_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch: B sequences of T positions, N = B·T."""

    input_ids_BT: torch.Tensor  # int64
    position_ids_BT: torch.Tensor  # int64, restarting at each document
    labels_N: torch.Tensor  # int64
    weights_N: torch.Tensor  # float32, 0 where the label is masked
    records: RecordTensors | None  # None: labels only
    num_scored: int


def load_batch(cache: TeacherCache, indices: np.ndarray, device: torch.device, with_records: bool) -> Batch:
    """Read sequences, and the teacher's records where they are wanted, on to a device."""
    if with_records:
        return make_batch(*cache.read(indices), device)
    return make_batch(cache.sequences.select(indices), None, device)


def make_batch(sequences: Sequences, records: Records | None, device: torch.device) -> Batch:
    """Put sequences, and what the teacher said of their positions, on a device."""
    input_ids = torch.from_numpy(sequences.input_ids.astype(np.int64))
    return Batch(
        input_ids_BT=input_ids[:, :-1].to(device),
        position_ids_BT=torch.from_numpy(sequences.position_ids(slice(None))).to(device),
        labels_N=input_ids[:, 1:].reshape(-1).to(device),
        weights_N=torch.from_numpy(sequences.loss_mask.reshape(-1).astype(np.float32)).to(device),
        records=None if records is None else RecordTensors.from_records(records, device),
        num_scored=int(sequences.loss_mask.sum()),
    )


class BatchReader:
    """Iterates over (step, micro-batches of that step), read ahead by one thread; counts the time spent waiting.

    What a step trains on is `order.sequences_for_step(step)` cut into micro-batches: nothing here has a state that a
    resume would have to restore.
    """

    def __init__(
        self,
        cache: TeacherCache,
        order: DataOrder,
        steps: range,
        batch_size: int,
        device: torch.device,
        with_records: bool,
    ) -> None:
        self.wait_seconds = 0.0
        # A cache is for one thread at a time, and the loop validates on it while this thread reads: a copy has its own
        # open files.
        self._cache, self._order, self._steps = copy.copy(cache), order, steps
        self._batch_size, self._device, self._with_records = batch_size, device, with_records
        self._queue: queue.Queue[tuple[int, list[Batch]] | BaseException] = queue.Queue(maxsize=_READ_AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read_ahead, name="batch-reader", daemon=True)

    def __iter__(self) -> Iterator[tuple[int, list[Batch]]]:
        self._thread.start()
        try:
            for _ in self._steps:
                started = time.monotonic()
                item = self._queue.get()
                self.wait_seconds += time.monotonic() - started
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._stopped.set()
            while self._thread.is_alive():
                self._drain()
                self._thread.join(timeout=0.05)

    def _read_ahead(self) -> None:
        try:
            for step in self._steps:
                indices = self._order.sequences_for_step(step)
                parts = [indices[i : i + self._batch_size] for i in range(0, len(indices), self._batch_size)]
                self._put((step, [load_batch(self._cache, part, self._device, self._with_records) for part in parts]))
                if self._stopped.is_set():
                    return
        except BaseException as error:
            self._put(error)

    def _put(self, item: tuple[int, list[Batch]] | BaseException) -> None:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def _drain(self) -> None:
        while not self._queue.empty():
            self._queue.get_nowait()
