"""The reader of micro-batches: what it gives, how little it holds, how it ends; and what a step makes of them."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cache import TeacherCache
from pipeline.distill.batching import batches as batches_module
from pipeline.distill.batching.batches import READ_AHEAD, Batch, BatchReader, HostBatch, load_batch
from pipeline.distill.batching.order import DataOrder
from pipeline.distill.learner import Learner
from pipeline.distill.settings import TrainSettings
from pipeline.distill.step_result import StepResult
from pipeline.distill.validation import validate
from pipeline.models import CausalModel
from tests import tiny
from tests.evaluation.caches import NUM_TRAIN, make_cache

CPU = torch.device("cpu")
STEPS, ACCUMULATION = 3, 6


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> TeacherCache:
    """A cache whose sequences all hold masked positions."""
    return make_cache(tmp_path_factory.mktemp("cache"), CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[HostBatch]:
    """Every micro-batch the reader's thread has read so far."""
    found: list[HostBatch] = []
    real = batches_module._read

    def counted(*args: Any, **kwargs: Any) -> HostBatch:
        found.append(real(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr(batches_module, "_read", counted)
    return found


def order() -> DataOrder:
    return DataOrder([(0, NUM_TRAIN)], seed=1, window_shards=1, batch=ACCUMULATION)


def make_reader(cache: TeacherCache) -> BatchReader:
    return BatchReader(cache, order(), range(STEPS), batch_size=1, device=CPU, with_records=True)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batch-reader"]


def settled(found: list[HostBatch]) -> int:
    """How many were read once the thread has nothing left to do."""
    before, deadline = -1, time.monotonic() + 20
    while before != len(found) and time.monotonic() < deadline:
        before = len(found)
        time.sleep(0.25)
    return len(found)


def assert_same(found: Batch, expected: Batch) -> None:
    for name in ("input_ids_BT", "position_ids_BT", "labels_N", "weights_N"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.records is not None
    assert expected.records is not None
    for name in ("ids_NK", "logprobs_NK", "tail_NR", "draw_ids_NM", "draw_logprobs_NM"):
        assert torch.equal(getattr(found.records, name), getattr(expected.records, name)), name


def test_it_gives_every_micro_batch_of_every_step_in_order(cache: TeacherCache) -> None:
    seen = 0
    for batches in make_reader(cache):
        rows = order().sequences_for_step(batches.step)
        assert batches.num_scored == int(cache.sequences.select(rows).loss_mask.sum())
        for row, batch in zip(rows, batches, strict=True):
            assert_same(batch, load_batch(cache, np.array([row]), CPU, with_records=True))
            assert batch.scored_n is not None
            mask_T = cache.sequences.select(slice(row, row + 1)).loss_mask[0]
            assert batch.scored_n.tolist() == np.flatnonzero(mask_T).tolist()
            seen += 1
    assert seen == STEPS * ACCUMULATION
    assert threads() == []


def test_it_holds_a_few_micro_batches_however_many_a_step_has(cache: TeacherCache, read: list[HostBatch]) -> None:
    """Six a step: were whole steps read ahead, all eighteen would be there before the first is asked for twice."""
    taken = 0
    for batches in make_reader(cache):
        for _ in batches:
            taken += 1
            assert settled(read) <= taken + READ_AHEAD + 1
            if taken == 3:
                return


def test_its_thread_works_on_the_card_of_its_rank_before_it_reads(
    cache: TeacherCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread begins on the first card, where pinning memory would take some of what another rank needs."""
    done: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda card: done.append((threading.current_thread().name, card)))
    monkeypatch.setattr(batches_module, "_read", lambda *_, **__: done.append("read") or pytest.fail("enough"))
    card = torch.device("cuda", 1)
    with pytest.raises(pytest.fail.Exception, match="enough"):
        next(iter(BatchReader(cache, order(), range(STEPS), batch_size=1, device=card, with_records=True)))
    assert done == [("batch-reader", card), "read"]


def test_what_is_not_taken_of_a_step_is_not_given_to_the_next(cache: TeacherCache) -> None:
    for batches in make_reader(cache):
        row = order().sequences_for_step(batches.step)[0]
        assert_same(next(iter(batches)), load_batch(cache, np.array([row]), CPU, with_records=True))


def test_what_goes_wrong_in_the_thread_is_raised_where_the_batch_is_taken(
    cache: TeacherCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = batches_module._read, iter(range(100))

    def failing(*args: Any, **kwargs: Any) -> HostBatch:
        if next(count) == ACCUMULATION + 2:
            raise OSError("the disk is gone")
        return real(*args, **kwargs)

    monkeypatch.setattr(batches_module, "_read", failing)
    taken: list[Batch] = []
    with pytest.raises(OSError, match="the disk is gone"):
        taken.extend(batch for batches in make_reader(cache) for batch in batches)
    assert len(taken) == ACCUMULATION + 2
    assert threads() == []


def test_what_went_wrong_in_the_thread_is_raised_again_by_who_goes_on(
    cache: TeacherCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a step does that runs out of memory while a micro-batch is taken: it is done again from what is read anew."""
    real = batches_module._read

    def failing(source: Any, indices: np.ndarray, *args: Any, **kwargs: Any) -> HostBatch:
        if indices[0] == order().sequences_for_step(0)[2] and threading.current_thread().name == "batch-reader":
            raise RuntimeError("CUDA error: out of memory")
        return real(source, indices, *args, **kwargs)

    monkeypatch.setattr(batches_module, "_read", failing)
    found: list[str] = []

    def go_on() -> None:
        try:
            for batches in make_reader(cache):
                with pytest.raises(RuntimeError):
                    list(batches)
                assert len(list(batches)) == ACCUMULATION
        except RuntimeError as error:
            found.append(str(error))

    learning = threading.Thread(target=go_on, daemon=True)
    learning.start()
    learning.join(20)
    assert found == ["CUDA error: out of memory"], "nobody waits for a thread that has ended"


def test_leaving_early_ends_the_thread(cache: TeacherCache) -> None:
    iterator: Iterator[Any] = iter(make_reader(cache))
    next(iterator)
    assert len(threads()) == 1
    iterator.close()  # type: ignore[attr-defined]
    assert threads() == []


def test_waiting_is_counted_in_the_middle_of_a_step_too(cache: TeacherCache, monkeypatch: pytest.MonkeyPatch) -> None:
    real = batches_module._read

    def slow(*args: Any, **kwargs: Any) -> HostBatch:
        time.sleep(0.02)
        return real(*args, **kwargs)

    monkeypatch.setattr(batches_module, "_read", slow)
    reader, started = make_reader(cache), time.monotonic()
    for batches in reader:
        for _ in batches:
            pass
    elapsed = time.monotonic() - started
    assert 0.5 * elapsed < reader.wait_seconds <= elapsed


# ------------------------------------------------------------------ a step on micro-batches


def learn(batches: list[Batch], **changes: Any) -> tuple[StepResult, Learner]:
    settings = TrainSettings(steps=10, warmup_steps=0, **changes)
    causal = CausalModel(tiny.make_model("llama", seed=5), tiny.VOCAB_SIZE)  # another model than the teacher
    with torch.no_grad():
        causal.model.lm_head.weight.mul_(20)  # and far from it: two random ones hardly differ
    learner = Learner(causal, settings, 10, torch.float32)
    return learner.learn(0, batches, sum(batch.num_scored for batch in batches)), learner


@pytest.mark.parametrize("changes", [{}, {"objective": "bucket"}, {"kd_weight": 0.0, "ce_weight": 1.0}])
def test_a_step_is_the_same_in_one_piece_and_in_many(cache: TeacherCache, changes: dict[str, Any]) -> None:
    rows = np.arange(NUM_TRAIN)
    whole, first = learn([load_batch(cache, rows, CPU, with_records=True)], **changes)
    cut, second = learn([load_batch(cache, rows[i : i + 1], CPU, with_records=True) for i in rows], **changes)
    assert whole.num_positions == cut.num_positions == int(cache.sequences.select(rows).loss_mask.sum())
    for name in ("loss", "ce", "kd", "agreement", "effective_draws", "gradient_norm"):
        expected = getattr(whole, name)
        near = None if expected is None else pytest.approx(expected, rel=1e-5)
        assert getattr(cut, name) == near, name
    assert whole.kd is None or whole.kd > 0.1
    for a, b in zip(first.weights().values(), second.weights().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_a_micro_batch_with_nothing_to_score_changes_nothing(cache: TeacherCache) -> None:
    full = load_batch(cache, np.arange(2), CPU, with_records=True)
    sequences, records = cache.read(np.arange(2, 4))
    sequences.loss_mask[:] = False
    empty = HostBatch.of(sequences, records).to(CPU)
    assert empty.num_scored == 0
    alone, first = learn([full])
    both, second = learn([full, empty])
    assert both.loss == pytest.approx(alone.loss)
    for a, b in zip(first.weights().values(), second.weights().values(), strict=True):
        assert torch.equal(a, b)


def test_a_step_asks_the_device_once(cache: TeacherCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question to a card waits for it: counted as calls that turn a tensor into numbers of Python's."""
    batches = [load_batch(cache, np.array([row]), CPU, with_records=True) for row in range(3)]
    learn(batches)  # what asks once, at the first use of a model
    asked: list[str] = []
    for name in ("tolist", "item", "__float__", "__bool__", "__int__", "nonzero"):
        real = getattr(torch.Tensor, name)

        def counted(self: torch.Tensor, *args: Any, _name: str = name, _real: Any = real, **kwargs: Any) -> Any:
            frames = traceback.extract_stack()
            if not any("/transformers/" in frame.filename for frame in frames):  # what its forward pass asks is its own
                asked.append(_name)
            return _real(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    settings = TrainSettings(steps=10, warmup_steps=0)
    learner = Learner(CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE), settings, 10, torch.float32)
    asked.clear()
    learner.learn(0, batches, sum(batch.num_scored for batch in batches))
    assert asked == ["tolist"]


# ------------------------------------------------------------------ validation


def test_validation_runs_in_the_dtype_it_is_given(cache: TeacherCache) -> None:
    causal, rows = CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE), np.arange(2)
    batch = load_batch(cache, rows, CPU, with_records=False)
    exact = validate(causal, cache, rows, 2, 64)
    half = validate(causal, cache, rows, 2, 64, torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        hidden = causal.hidden(batch.input_ids_BT, batch.position_ids_BT)
    factors = (hidden.flatten(0, 1), causal.model.lm_head.weight[: tiny.VOCAB_SIZE])
    rounded_ND, rounded_VD = (factor.detach().bfloat16().double() for factor in factors)
    labels_N = batch.labels_N.where(batch.weights_N > 0, -100)
    expected = torch.nn.functional.cross_entropy(rounded_ND @ rounded_VD.T, labels_N)
    assert half.ce == pytest.approx(float(expected), abs=1e-6)
    assert half.ce != exact.ce
    assert half.ce == pytest.approx(exact.ce, rel=1e-2)


def test_dropout_is_for_learning_alone(cache: TeacherCache) -> None:
    """Whichever of the two came before, and of (seed, step) alone."""
    causal = CausalModel(tiny.make_model("gpt2", attn_pdrop=0.6, resid_pdrop=0.6), tiny.VOCAB_SIZE)
    batch, rows = load_batch(cache, np.arange(4), CPU, with_records=True), np.arange(4)
    at_rest = validate(causal, cache, rows, 2, 64)
    losses = []
    for seed in (0, 1, 0):
        settings = TrainSettings(steps=10, warmup_steps=0, learning_rate=1e-12, seed=seed)
        losses.append(Learner(causal, settings, 10, torch.float32).learn(0, [batch], batch.num_scored).loss)
        assert validate(causal, cache, rows, 2, 64).ce == pytest.approx(at_rest.ce, rel=1e-6)
    assert losses[0] == pytest.approx(losses[2], rel=1e-6)
    assert abs(losses[0] - losses[1]) > 1e-3


def test_validation_does_not_depend_on_its_batches(cache: TeacherCache) -> None:
    causal, rows = CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE), np.arange(NUM_TRAIN, NUM_TRAIN + 5)
    one, many = (validate(causal, cache, rows, size, 64) for size in (1, 5))
    expected = pytest.approx((many.ce, many.kd, many.agreement), rel=1e-5, abs=1e-8)  # its KL is nothing but rounding
    assert (one.ce, one.kd, one.agreement) == expected
