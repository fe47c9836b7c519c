"""A card that gets full: smaller pieces of the same step, decided by an injected probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import console
from pipeline.cache import TeacherCache
from pipeline.distill import learner as learner_module
from pipeline.distill.batching.batches import Batch, BatchReader, load_batch
from pipeline.distill.batching.order import DataOrder
from pipeline.distill.guards import memory_guard
from pipeline.distill.guards.memory_guard import MemoryGuard
from pipeline.distill.learner import Learner
from pipeline.distill.settings import TrainSettings
from pipeline.errors import MachineError
from pipeline.models import CausalModel
from tests import tiny
from tests.evaluation.caches import NUM_TRAIN, make_cache

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> TeacherCache:
    """A cache whose sequences all hold masked positions."""
    return make_cache(tmp_path_factory.mktemp("cache"), CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE))


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """What was said since it was last asked."""
    console._said.clear()
    return lambda: [line.removeprefix("note: ") for line in capsys.readouterr().err.splitlines()]


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(steps=10, warmup_steps=0, **changes)


def guard(monkeypatch: pytest.MonkeyPatch, in_use: Callable[[MemoryGuard], int], **changes: Any) -> MemoryGuard:
    """A guard on a card of 100 bytes, of which its pieces take `in_use`."""
    monkeypatch.setattr(memory_guard, "card_probe", lambda device: lambda: (in_use(made), 100))
    made = MemoryGuard(settings(**changes), CPU)
    return made


def make_learner(**changes: Any) -> Learner:
    return Learner(
        CausalModel(tiny.make_model("llama", seed=1), tiny.VOCAB_SIZE), settings(**changes), 10, torch.float32
    )


def learn(learner: Learner, batches: list[Batch], step: int = 0) -> None:
    learner.learn(step, batches, sum(batch.num_scored for batch in batches))


def same(first: Learner, second: Learner) -> bool:
    """Whether two learners hold the same bits."""
    one, other = first.tensors(), second.tensors()
    return all(torch.equal(tensor, other[name][key]) for name in one for key, tensor in one[name].items())


# ------------------------------------------------------------------ decisions


def test_first_the_chunk_then_the_rows_then_the_chunk_each_said_once(
    monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    watched = guard(monkeypatch, lambda found: 86, chunk_positions=300, batch_size=6, accumulation=2)
    found = []
    for _ in range(8):
        watched.watch()
        found.append((watched.chunk_positions, watched.rows()))
    assert found == [(256, 6), (256, 3), (256, 2), (256, 1), (128, 1), (64, 1), (64, 1), (64, 1)]
    lines = said()
    assert len(lines) == 7
    assert lines[0] == (
        "86 bytes of the card's 100 bytes are in use, above 85% (train.memory_guard): from here on the output matrix "
        "takes 256 positions at once instead of 300"
    )
    assert lines[1].endswith("a step is 4 passes of 3 sequences instead of 6, its batch stays the same")
    assert lines[6] == "above 85% of the card's memory is in use, and nothing is left to cut smaller"


def test_stops_where_there_is_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = guard(monkeypatch, lambda found: 69 + found.chunk_positions // 16, chunk_positions=512)
    for _ in range(4):
        watched.watch()
    assert (watched.chunk_positions, watched.parts) == (256, 1)
    assert watched.step_share == 0.85


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_off_or_above_what_is_in_use_nothing_changes(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = guard(monkeypatch, lambda found: 99, memory_guard=limit)
    watched.watch()
    assert watched.state() == {"chunk_positions": 512, "of": 512, "parts": 1}


def test_without_a_card_there_is_no_probe() -> None:
    watched = MemoryGuard(settings(), CPU)
    watched.watch()
    assert watched.step_share is None
    assert watched.state() == {"chunk_positions": 512, "of": 512, "parts": 1}


def test_decisions_come_back_from_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, fresh = (guard(monkeypatch, lambda found: 99, chunk_positions=64) for _ in range(2))
    watched.watch()
    fresh.load(watched.state())
    assert fresh.state() == {"chunk_positions": 64, "of": 64, "parts": 2}
    fresh.load(None)  # a checkpoint of before there was a guard
    assert fresh.state() == {"chunk_positions": 64, "of": 64, "parts": 2}
    off = guard(monkeypatch, lambda found: 99, memory_guard=0)
    off.load(watched.state())  # as after a spike of something else, which a user wants forgotten
    assert off.state() == {"chunk_positions": 512, "of": 512, "parts": 1}


@pytest.mark.parametrize(
    ("kept", "configured", "expected"),
    [
        ({"chunk_positions": 128, "of": 128, "parts": 1}, 1024, 1024),  # the guard cut nothing: the key is free
        ({"chunk_positions": 128, "of": 128, "parts": 1}, 64, 64),
        ({"chunk_positions": 128, "of": 512, "parts": 1}, 1024, 128),  # the guard's decision
        ({"chunk_positions": 128, "of": 512, "parts": 1}, 64, 64),
        ({"chunk_positions": 128, "parts": 1}, 1024, 128),  # of before it said what was configured
    ],
)
def test_a_chunk_that_was_never_cut_is_the_configs(kept: dict[str, int], configured: int, expected: int) -> None:
    resumed = MemoryGuard(settings(chunk_positions=configured), CPU)
    resumed.load(kept)
    assert resumed.chunk_positions == expected


# ------------------------------------------------------------------ smaller pieces


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("masked", [True, False])
def test_a_split_batch_is_its_rows_read_one_by_one(cache: TeacherCache, parts: int, masked: bool) -> None:
    rows = np.array([4, 1, 6, 0, 3])
    batch = load_batch(cache, rows, CPU, with_records=True)
    if not masked:
        whole = torch.ones_like(batch.weights_N)
        batch = _replaced(batch, weights_N=whole, scored_n=None, num_scored_B=(whole.numel() // 5,) * 5)
    size = -(-len(rows) // parts)
    pieces = batch.split(parts)
    assert len(pieces) == -(-len(rows) // size)
    for index, piece in enumerate(pieces):
        expected = load_batch(cache, rows[index * size : (index + 1) * size], CPU, with_records=True)
        for name in ("input_ids_BT", "position_ids_BT", "labels_N"):
            assert torch.equal(getattr(piece, name), getattr(expected, name)), name
        assert piece.sequences == expected.sequences
        assert piece.records is not None
        assert expected.records is not None
        for name in ("ids_NK", "logprobs_NK", "tail_NR", "draw_ids_NM", "draw_logprobs_NM", "entropies_N"):
            assert torch.equal(getattr(piece.records, name), getattr(expected.records, name)), name
        if masked:
            assert torch.equal(piece.weights_N, expected.weights_N)
            assert piece.scored_n is not None
            assert expected.scored_n is not None
            assert torch.equal(piece.scored_n, expected.scored_n)
            assert (piece.num_scored, piece.num_scored_B) == (expected.num_scored, expected.num_scored_B)


def _replaced(batch: Batch, **changes: Any) -> Batch:
    fields = {name: getattr(batch, name) for name in Batch.__dataclass_fields__}
    return Batch(**(fields | changes))


class Card:
    """A card's memory as the driver and PyTorch's allocator tell of it, in place of `torch.cuda`'s own functions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, total: int, others: int) -> None:
        self.total, self.others, self.reserved, self.peak = total, others, 0, 0
        self.emptied = 0
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (self.total - self.in_use(), self.total))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: self.reserved)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: self.peak)
        monkeypatch.setattr(torch.cuda, "empty_cache", self.empty)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self.forget)

    def in_use(self) -> int:
        return self.others + self.reserved

    def step(self, allocated: int) -> None:
        """A step whose tensors take so much at most: the allocator keeps it, and remembers the most there was."""
        self.reserved, self.peak = max(self.reserved, allocated), max(self.peak, allocated)

    def empty(self) -> None:
        self.emptied += 1
        self.reserved = 0

    def forget(self, device: torch.device) -> None:
        self.peak = 0


def test_on_a_card_a_peak_counts_until_the_pieces_are_smaller(
    monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    card = Card(monkeypatch, total=100, others=10)
    watched = MemoryGuard(settings(chunk_positions=512, batch_size=4), torch.device("cuda", 0))
    for allocated in (60, 20):  # the second is small, and the peak of the first is what there must be room for
        card.step(allocated)
        watched.watch()
        assert watched.step_share == 0.7
    assert (watched.chunk_positions, watched.parts) == (512, 1)

    card.step(78)
    watched.watch()
    assert watched.step_share == 0.88, "what others hold counts, what the allocator only keeps does not"
    assert (watched.chunk_positions, watched.parts) == (256, 1)
    assert (card.emptied, card.peak) == (1, 0), "what is not needed any more is given back, and a new peak begins"
    for _ in range(3):
        card.step(70)
        watched.watch()
    assert (watched.chunk_positions, watched.parts) == (256, 1)
    assert len(said()) == 1


def gradients(learner: Learner, batches: list[Batch]) -> list[Tensor]:
    """Of every weight, as the optimizer would get them, in float64."""
    num_scored = sum(batch.num_scored for batch in batches)
    learner._accumulate(0, batches, 2.0, learner.loss_weights.at(0), num_scored)
    found = [parameter.grad for parameter in learner.causal.model.parameters()]
    return [gradient.double() for gradient in found if gradient is not None]


def test_smaller_pieces_have_the_same_gradient(cache: TeacherCache) -> None:
    batches = [load_batch(cache, np.array(rows), CPU, with_records=True) for rows in ((0, 1, 2, 3, 4), (5, 6, 7))]
    whole = gradients(make_learner(), batches)
    cut = make_learner()
    cut.memory.load({"chunk_positions": 7, "parts": 4})
    for expected, found in zip(whole, gradients(cut, batches), strict=True):
        assert float((found - expected).norm() / expected.norm()) < 1e-5


# ------------------------------------------------------------------ out of memory


def run_out(monkeypatch: pytest.MonkeyPatch, fits: Callable[[int, int], bool]) -> list[int]:
    """Let a pass run out of memory unless `fits` (number of the pass, positions); returns positions of the passes."""
    real, passes = learner_module.distillation_loss, []

    def loss(hidden_ND: Tensor, *args: Any, **kwargs: Any) -> Any:
        passes.append(len(hidden_ND))
        if not fits(len(passes), len(hidden_ND)):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(hidden_ND, *args, **kwargs)

    monkeypatch.setattr(learner_module, "distillation_loss", loss)
    return passes


@pytest.mark.parametrize("changes", [{}, {"router": "learned", "balance": True}], ids=["plain", "routed"])
def test_a_step_that_ran_out_is_done_again_from_its_start(
    changes: dict[str, Any], cache: TeacherCache, monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    """The second step; gradients, sums and studies of the gate from its first tries are not in what is learned."""
    batches = [load_batch(cache, np.array(rows), CPU, with_records=True) for rows in ((0, 1), (2, 3))]
    struck, small = (make_learner(chunk_positions=128, batch_size=2, **changes) for _ in range(2))
    with monkeypatch.context() as patch:
        passes = run_out(patch, lambda number, positions: number not in (4, 6))
        for step in range(2):
            learn(struck, batches, step)
        assert len(passes) == 2 + 2 + 2 + 4, "twice in its second pass, then whole, in rows of one"
    assert (struck.memory.chunk_positions, struck.memory.parts) == (64, 2)
    lines = said()
    assert [line.startswith("the card's memory ran out in this step, which is done again:") for line in lines] == [
        True,
        True,
    ]
    learn(small, batches, 0)
    small.memory.load(struck.memory.state())
    learn(small, batches, 1)
    assert same(struck, small)
    assert struck.loss_weights.state() == small.loss_weights.state()


def test_nothing_left_to_cut_is_refused_with_what_to_set(cache: TeacherCache, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [load_batch(cache, np.arange(4), CPU, with_records=True)]
    run_out(monkeypatch, lambda number, positions: False)
    learner = make_learner(batch_size=4)
    with pytest.raises(MachineError, match=r"1 sequence a pass and 64 positions.*gradient_checkpointing: true"):
        learn(learner, batches)
    assert all(parameter.grad is None for parameter in learner.causal.model.parameters())


def test_other_errors_pass(cache: TeacherCache, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = load_batch(cache, np.arange(2), CPU, with_records=True)

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("something else")

    monkeypatch.setattr(learner_module, "distillation_loss", broken)
    with pytest.raises(RuntimeError, match="something else"):
        make_learner().learn(0, [batch], batch.num_scored)


def test_the_optimizer_running_out_says_so(cache: TeacherCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    learner, batch = make_learner(), load_batch(cache, np.arange(2), CPU, with_records=True)
    monkeypatch.setattr(learner.optimizer, "step", full)
    with pytest.raises(MachineError, match=r"in the optimizer.*ema_device: host"):
        learn(learner, [batch])


def test_a_step_taken_half_from_the_reader_can_be_taken_again(cache: TeacherCache) -> None:
    """Whatever was taken before: the same micro-batches again, and the next step's are its own."""
    order = DataOrder([(0, NUM_TRAIN)], seed=1, window_shards=1, batch=6)
    reader = BatchReader(cache, order, range(3), 2, CPU, with_records=True)
    for batches in reader:
        stream: Iterator[Batch] = iter(batches)
        for _ in range(batches.step):
            next(stream)
        if batches.step == 1:
            with pytest.raises(KeyError):  # what fails inside ends the stream
                stream.throw(KeyError)  # type: ignore[attr-defined]
        again = [number for batch in batches for number in batch.sequences]
        assert again == order.sequences_for_step(batches.step).tolist()
        assert batches.num_scored == sum(batch.num_scored for batch in batches)
