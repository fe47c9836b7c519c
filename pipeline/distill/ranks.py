"""The processes that train one student together: each learns from its share of a step, and all take the same step.

    g = Σ_r g_r        gradients, and the sums that figures are made of, over ranks r as over micro-batches

A loss is divided by the count over the whole step, so that what is added needs no mean. Each rank has the whole
student and its optimizer; every decision is made of sums that are the same bits everywhere, so they stay alike.

DistributedDataParallel takes means, and adds up while backward still runs. Here a rank adds once its whole share is
done: one that runs out of memory does its share again in smaller pieces, and nobody has added half of it. The command
starts its processes itself, as torchrun would: one flag serves two cards and a CPU, and a signal or a failure anywhere
comes to one process, which pauses or says why.

Rank 0 is the process of the command. It alone has news of the others: where one fails, it says why and ends the rest.
Numbers of the host, and a CPU's tensors, travel over the loopback device by gloo, a card's tensors by NCCL.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.errors import MachineError
from pipeline.models.memory import is_out_of_memory

News = Callable[[float], object]
"""Raises what became of another process, as soon as it is known within so many seconds"""
BUCKET_NUMBERS = 2**23
"""What is added at once, where a tensor is not larger by itself: 32 MiB of float32"""
_POLL_SECONDS = 0.0005
_NEWS_SECONDS = 30.0  # a broken connection is seen before the end of the process that broke it
_LOADING = timedelta(minutes=30)  # until all have loaded what the first one has
_BEGINNING = timedelta(minutes=2)  # to find each other once all are there
_STUCK = timedelta(minutes=30)  # more than the others of a step can be behind the first
_WATCHDOG = timedelta(minutes=40)  # torch's own patience with a card's sum, which is not to end before ours
_FOR_GOOD = timedelta(days=365)  # the others wait while the first validates and saves; they end when it ends


class Ranks:
    """The processes of a training; by itself the only one there is, which has nobody to wait for."""

    def __init__(self, number: int = 0, count: int = 1) -> None:
        self.number, self.count = number, count

    def share(self, total: int) -> slice:
        """This rank's part of so many things in a row: neighbours, and as many as the others have, or one fewer."""
        return slice(total * self.number // self.count, total * (self.number + 1) // self.count)

    def meet(self, numbers: Sequence[int]) -> list[list[int]]:
        """Wait for all ranks to come here; the numbers each came with, of which there must be equally many."""
        return [list(numbers)]

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Put into each of these float32 tensors its sum over ranks, which must give the same shapes in one order."""


class _Joined(Ranks):
    """One of several. MachineError where another one is lost, unless `news` has more to say."""

    def __init__(
        self, number: int, count: int, news: News, host: dist.ProcessGroup | None, device: dist.ProcessGroup | None
    ) -> None:
        super().__init__(number, count)
        self._news, self._host, self._device = news, host, device

    def meet(self, numbers: Sequence[int]) -> list[list[int]]:
        own = torch.tensor(numbers, dtype=torch.int64)
        rows = [torch.empty_like(own) for _ in range(self.count)]
        self._finish(partial(dist.all_gather, rows, own, self._host, async_op=True))
        return [row.tolist() for row in rows]

    @torch.no_grad()
    def add(self, tensors: Sequence[Tensor]) -> None:
        for bucket in buckets(tensors):
            sums_n = torch.cat([tensor.flatten() for tensor in bucket]) if len(bucket) > 1 else bucket[0].flatten()
            self._finish(partial(dist.all_reduce, sums_n, group=self._device, async_op=True), _STUCK)
            for tensor, sum_n in zip(bucket, torch.split(sums_n, [*map(Tensor.numel, bucket)]), strict=True):
                tensor.copy_(sum_n.view_as(tensor))

    def _finish(self, begin: Callable[[], dist.Work | None], patience: timedelta = _FOR_GOOD) -> None:
        """Do what all ranks do together, and look for news meanwhile: a card would wait for a lost one without end."""
        with _lost(self._news):
            deadline = time.monotonic() + patience.total_seconds()
            work = begin()
            assert work is not None, "every rank is of these groups"
            while not work.is_completed():
                self._news(_POLL_SECONDS)
                if time.monotonic() > deadline:
                    raise RuntimeError(f"a sum over all took more than {patience.total_seconds() / 60:.0f} minutes")
            work.wait()  # what failed is complete too: this raises why


def buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in their order, in groups of at most BUCKET_NUMBERS in all, or of one that is larger."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(other.numel() for other in bucket) + tensor.numel() > BUCKET_NUMBERS:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def meeting_place() -> str:
    """A new file where ranks find each other, which is in no folder and goes with this process; MachineError where the
    system has none.

    It stays open until then: torch looks at its path whenever it lets go of a store, and another file, the run's lock
    for one, must not have its number by then.
    """
    if not hasattr(os, "memfd_create"):
        raise MachineError("train.workers: several processes need Linux here. Run the same command with --workers 1.")
    return f"/proc/{os.getpid()}/fd/{os.memfd_create('ranks')}"


@contextlib.contextmanager
def joined(
    place: str, number: int, count: int, device: torch.device, news: News, arriving: News | None = None
) -> Iterator[Ranks]:
    """In the block this process is one of `count`, whose student is on `device`; `place` is the first one's.

    `arriving` takes the place of `news` until all are there. MachineError where one does not come.
    """
    store = dist.FileStore(place, count)  # type: ignore[attr-defined]
    here = [f"rank {other} is here" for other in range(count)]
    store.set(here[number], "")
    deadline = time.monotonic() + _LOADING.total_seconds()
    while not store.check(here):
        (arriving or news)(20 * _POLL_SECONDS)
        if time.monotonic() > deadline:
            raise _never_came(sum(store.check([other]) for other in here), count)
    patience = _FOR_GOOD if number else _STUCK
    with _within_this_machine():
        with _lost(news):
            dist.init_process_group("gloo", store=store, rank=number, world_size=count, timeout=_BEGINNING)
        on_device = None
        try:
            host = on_device = dist.new_group(backend="gloo", timeout=patience)
            if device.type == "cuda":
                on_device = dist.new_group(backend="nccl", timeout=_WATCHDOG)
            yield _Joined(number, count, news, host, on_device)
            if device.type == "cuda":
                torch.cuda.synchronize(device)  # whatever was asked for is done before the connections go
        finally:
            if on_device is not None and device.type == "cuda":
                on_device.abort()  # to finalize is collective: it would wait for one that is lost, or was paused
            dist.destroy_process_group()


@contextlib.contextmanager
def _lost(news: News) -> Iterator[None]:
    """MachineError where torch finds in the block that another process is lost, unless `news` has more to say.

    A card whose memory runs out passes on: that is nobody's loss.
    """
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        news(_NEWS_SECONDS)
        raise MachineError(
            "train.workers: the processes of this training lost each other. Run the same command again, with "
            f"--workers 1 if it happens again. ({error})"
        ) from error


def _never_came(num_here: int, count: int) -> MachineError:
    return MachineError(
        f"train.workers: expected {count} processes with the student loaded, found {num_here} after "
        f"{_LOADING.total_seconds() / 60:.0f} minutes: the disk they read may hang, or one was stopped. Nothing was "
        "begun. Run the same command again, with --workers 1 if it happens again."
    )


@contextlib.contextmanager
def _within_this_machine() -> Iterator[None]:
    """Connections stay within this machine, and no name is looked up to find out which one it is.

    Where a card's sum fails torch does not abort the process a minute later, which has to say so and to end the others.
    """
    loopback = "lo" if sys.platform.startswith("linux") else "lo0"
    values = {
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
