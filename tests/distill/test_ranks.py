"""Ranks: shares of a step, what is added over them, and a learner's step that is the same however many there are."""

from __future__ import annotations

import dataclasses
import os
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.cache import TeacherCache
from pipeline.distill import learner as learner_module
from pipeline.distill import ranks as ranks_module
from pipeline.distill.batching.batches import Batch, BatchReader, load_batch
from pipeline.distill.batching.order import DataOrder
from pipeline.distill.learner import Learner
from pipeline.distill.ranks import Ranks, buckets, joined, meeting_place
from pipeline.distill.settings import TrainSettings
from pipeline.distill.step_result import StepResult
from pipeline.distill.training_workers import count_ranks
from pipeline.errors import ConfigError, MachineError
from pipeline.models import CausalModel
from pipeline.pause import PausedError
from tests import tiny
from tests.evaluation.caches import NUM_TRAIN, make_cache

CPU = torch.device("cpu")
ALL = {"router": "learned", "balance": True, "rank_weight": 0.3}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> TeacherCache:
    return make_cache(tmp_path_factory.mktemp("cache"), CausalModel(tiny.make_model(seed=1), tiny.VOCAB_SIZE))


class Thread(Ranks):
    """One of several ranks in threads of this process."""

    def __init__(self, number: int, count: int, barrier: threading.Barrier, table: list[Any]) -> None:
        super().__init__(number, count)
        self._barrier, self._table = barrier, table

    def meet(self, numbers: Sequence[int]) -> list[list[int]]:
        rows: list[list[int]] = self._exchange(list(numbers))
        assert len({len(row) for row in rows}) == 1
        return rows

    def add(self, tensors: Sequence[Tensor]) -> None:
        of_all = self._exchange([tensor.clone() for tensor in tensors])
        for tensor, *others in zip(tensors, *of_all, strict=True):
            tensor.copy_(torch.stack(others).sum(dim=0))

    def _exchange(self, own: Any) -> Any:
        self._table[self.number] = own
        self._barrier.wait(60)
        of_all = list(self._table)
        self._barrier.wait(60)
        return of_all


def learner(**changes: Any) -> Learner:
    settings = TrainSettings(steps=10, warmup_steps=0, batch_size=NUM_TRAIN, **changes)
    return Learner(CausalModel(tiny.make_model(), tiny.VOCAB_SIZE), settings, 10, torch.float32)


def learn(steps: Sequence[Sequence[Batch]], count: int, **changes: Any) -> list[tuple[list[StepResult], Learner]]:
    """What each of `count` ranks makes of these steps, of which each takes its share of the sequences."""
    barrier, table = threading.Barrier(count), [None] * count
    totals = [sum(batch.num_scored for batch in batches) for batches in steps]
    learners = [learner(**changes) for _ in range(count)]  # one after another: each sets the seed of all threads

    def one(number: int) -> tuple[list[StepResult], Learner]:
        own = learners[number]
        own.ranks = Thread(number, count, barrier, table) if count > 1 else Ranks()
        shares = [batches[own.ranks.share(len(batches))] for batches in steps]
        return [own.learn(step, share, totals[step]) for step, share in enumerate(shares)], own

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def found(result: StepResult) -> dict[str, float]:
    """The figures of a step, without those that it does not have."""
    return {name: value for name, value in result.line().items() if value is not None}


def sequences(cache: TeacherCache, count: int = NUM_TRAIN) -> list[Batch]:
    return [load_batch(cache, np.array([row]), CPU, with_records=True) for row in range(count)]


# ------------------------------------------------------------------ shares


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("total", [5, 6, 7, 64])
def test_shares_are_all_of_it_once_in_order_and_even(count: int, total: int) -> None:
    shares = [range(total)[Ranks(number, count).share(total)] for number in range(count)]
    assert [place for share in shares for place in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_readers_of_two_ranks_read_a_step_between_them(cache: TeacherCache) -> None:
    order = DataOrder([(0, NUM_TRAIN)], seed=1, window_shards=1, batch=5)
    read: list[list[int]] = [[] for _ in range(3)]
    for number in range(2):
        reader = BatchReader(cache, order, range(3), 2, CPU, True, Ranks(number, 2))
        for batches in reader:
            rows = order.sequences_for_step(batches.step)
            assert batches.num_scored == int(cache.sequences.select(slice(None)).loss_mask[rows].sum()), "of all ranks"
            own = [row for batch in batches for row in batch.sequences]
            assert own == [row for batch in batches for row in batch.sequences], "read again, as after memory ran out"
            read[batches.step] += own
    assert read == [order.sequences_for_step(step).tolist() for step in range(3)]


def test_an_order_is_the_same_in_another_process() -> None:
    order = DataOrder([(3, 7), (20, 5)], seed=2**70, window_shards=2, batch=5)
    order.sequences_for_step(0)
    again: DataOrder = pickle.loads(pickle.dumps(order))
    for step in range(9):
        assert again.sequences_for_step(step).tolist() == order.sequences_for_step(step).tolist()


def test_no_more_ranks_than_a_step_has_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainSettings(steps=1, batch_size=1, accumulation=2)
    assert count_ranks(settings, "cpu") == 1
    assert count_ranks(settings.model_copy(update={"workers": 2}), "cpu") == 2
    with pytest.raises(ConfigError, match=r"train\.workers: expected at most 2, the sequences of a step .*found 3"):
        count_ranks(settings.model_copy(update={"workers": 3}), "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (7, 5))
    assert count_ranks(settings, "auto") == 2, "where nobody asked for more"


# ------------------------------------------------------------------ coming together


def test_one_that_never_comes_is_not_awaited_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks_module, "_LOADING", timedelta(seconds=0.1))
    told = (
        r"train\.workers: expected 3 processes with the student loaded, found 1 after 0 minutes.* Nothing was begun\."
    )
    with pytest.raises(MachineError, match=told), joined(meeting_place(), 0, 3, CPU, time.sleep):
        pass


def test_whoever_waits_for_the_others_hears_a_pause() -> None:
    def arriving(seconds: float) -> None:
        raise PausedError("SIGTERM was received")

    with pytest.raises(PausedError), joined(meeting_place(), 0, 2, CPU, time.sleep, arriving):
        pass


@pytest.mark.parametrize("before", [None, "1"])
def test_torch_leaves_it_to_this_process_to_end(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its watchdog would abort the process, after a failed sum or after the patience that a group of cards is given."""
    name, groups = "TORCH_NCCL_ASYNC_ERROR_HANDLING", list[tuple[str, timedelta, str | None]]()
    monkeypatch.delenv(name, raising=False) if before is None else monkeypatch.setenv(name, before)

    def new_group(backend: str, timeout: timedelta) -> Any:
        groups.append((backend, timeout, os.environ.get(name)))
        return SimpleNamespace(abort=lambda: None)

    monkeypatch.setattr(dist, "new_group", new_group)
    for other in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(dist, other, lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    with joined(meeting_place(), 0, 1, torch.device("cuda"), time.sleep):
        pass
    [_, (backend, timeout, handling)] = groups
    assert (backend, handling, os.environ.get(name)) == ("nccl", "0", before)
    assert timeout > ranks_module._STUCK + timedelta(seconds=ranks_module._NEWS_SECONDS)


# ------------------------------------------------------------------ sums


def test_buckets_keep_the_order_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks_module, "BUCKET_NUMBERS", 10)
    tensors = [torch.zeros(size) for size in (4, 6, 1, 25, 0, 9, 2)]
    assert [[len(tensor) for tensor in bucket] for bucket in buckets(tensors)] == [[4, 6], [1], [25], [0, 9], [2]]
    assert list(buckets([])) == []


def summing(monkeypatch: pytest.MonkeyPatch, is_completed: bool, wait: Callable[[], object]) -> Ranks:
    """One of two ranks, whose sums on cards come to this."""
    work = SimpleNamespace(is_completed=lambda: is_completed, wait=wait)
    monkeypatch.setattr(dist, "all_reduce", lambda *_, **__: work)
    monkeypatch.setattr(ranks_module, "_NEWS_SECONDS", 0.0)
    end = time.monotonic() + 10

    def news(seconds: float) -> None:
        assert time.monotonic() < end, "waits without end"
        time.sleep(seconds)

    return ranks_module._Joined(0, 2, news, None, None)


def test_a_sum_that_never_comes_is_not_awaited_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks_module, "_STUCK", timedelta(seconds=0.1))
    ranks = summing(monkeypatch, False, lambda: None)
    with pytest.raises(MachineError, match=r"lost each other.*--workers 1 .*a sum over all took more than 0 minutes"):
        ranks.add([torch.ones(3), torch.ones(2)])


def test_a_sum_that_failed_half_way_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait() -> None:
        raise dist.DistBackendError("remote process exited")

    tensors = [torch.ones(3), torch.ones(2)]
    with pytest.raises(MachineError, match=r"lost each other.*remote process exited"):
        summing(monkeypatch, True, wait).add(tensors)
    assert all(bool((tensor == 1).all()) for tensor in tensors)


NCCL = "unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.27.5\nLast error:\n"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 32.00 MiB"),
        dist.DistBackendError(f"{NCCL}Cuda failure 2 'out of memory'"),
        dist.DistBackendError(f"{NCCL}Failed to CUDA calloc async 40 bytes"),
    ],
)
def test_a_card_that_is_full_in_a_sum_is_told_as_that(
    error: Exception, cache: TeacherCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    one = learner()
    one.ranks = summing(monkeypatch, True, lambda: None)
    monkeypatch.setattr(one.ranks, "meet", lambda numbers: [list(numbers)] * 2)
    monkeypatch.setattr(dist, "all_reduce", full)
    with pytest.raises(MachineError, match=r"ran out in the sum over processes .*ema_device: host.*nvidia-smi"):
        one.learn(0, sequences(cache, 2), 1)


@pytest.mark.parametrize("count", [2, 4])  # four ranks of six sequences: shares of one and of two
@pytest.mark.parametrize("changes", [{}, {"kd_weight": 0.0, "ce_weight": 1.0}, {"router": "trust"}, ALL])
def test_a_step_is_the_same_however_many_share_it(cache: TeacherCache, count: int, changes: dict[str, Any]) -> None:
    steps = [sequences(cache)] * 3
    [(expected, alone)] = learn(steps, 1, **changes)
    together = learn(steps, count, **changes)
    for results, _ in together:
        for result, other in zip(results, expected, strict=True):
            assert found(result) == pytest.approx(found(other), rel=1e-4, abs=1e-6)
    for _, one in together:
        for name, tensors in one.tensors().items():
            for key, tensor in tensors.items():
                if name != "optimizer":
                    torch.testing.assert_close(tensor, alone.tensors()[name][key], rtol=1e-3, atol=1e-5)
                assert torch.equal(tensor, together[0][1].tensors()[name][key]), "to the bit, among themselves"
        assert one.state() == together[0][1].state()


def test_a_share_with_nothing_to_score_is_one(cache: TeacherCache) -> None:
    """A rank whose sequences are all masked has gradients of none, and no routes."""
    full = sequences(cache, 2)
    nothing = dataclasses.replace(
        full[1],
        weights_N=torch.zeros_like(full[1].weights_N),
        num_scored=0,
        scored_n=torch.zeros(0, dtype=torch.int64),
        num_scored_B=(0,),
    )
    [(expected, alone)] = learn([[full[0], nothing]] * 2, 1, **ALL)
    for results, one in learn([[full[0], nothing]] * 2, 2, **ALL):
        assert found(results[1]) == pytest.approx(found(expected[1]), rel=1e-4, abs=1e-6)
        for key, tensor in one.weights().items():
            torch.testing.assert_close(tensor, alone.weights()[key], rtol=1e-3, atol=1e-5)


def test_a_record_of_another_rank_that_is_not_finite_skips_the_step_of_all(cache: TeacherCache) -> None:
    batches = sequences(cache)
    assert batches[4].records is not None
    records = dataclasses.replace(
        batches[4].records, entropies_N=torch.full_like(batches[4].records.entropies_N, torch.nan)
    )
    odd = [*batches[:4], dataclasses.replace(batches[4], records=records), batches[5]]
    before = learner().weights()
    for [result], one in learn([odd], 2, router="uniform"):  # a gate would hand it on to the loss
        assert result.trouble is not None
        assert (result.trouble.what, result.trouble.sequences) == (("records",), (4,))
        assert one.skipped_steps == 1
        for key, tensor in one.weights().items():
            assert torch.equal(tensor, before[key])


def test_each_rank_drops_out_others(cache: TeacherCache, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(learner_module, "seed_device", lambda device, seed: seeds.append(seed))
    learn([sequences(cache)] * 2, 1)
    assert seeds == [0, 1]
    seeds.clear()
    learn([sequences(cache)] * 2, 2)
    assert len(seeds) == len(set(seeds)) == 4
    assert {0, 1} <= set(seeds)
