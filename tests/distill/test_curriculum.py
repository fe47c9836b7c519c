"""Orders that follow difficulty: arithmetic like the shuffled one, and what they promise of every epoch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.distill.batching.curriculum import LevelOrder, WeightedOrder, expected_copies
from pipeline.distill.batching.order import DataOrder
from pipeline.distill.settings import TrainSettings
from pipeline.errors import ConfigError

Spans = list[tuple[int, int]]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Spans, np.ndarray, int, int, int]:
    """Spans with gaps, a difficulty a sequence (some equal, some 0), seed, window and batch."""
    spans, first = [], 0
    for count, gap in draw(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=8)):
        spans.append((first + gap, count))
        first += gap + count
    total = sum(count for _, count in spans)
    nats = st.one_of(st.just(0.0), st.sampled_from([1.0, 2.5]), st.floats(0, 12))
    difficulty = np.array(draw(st.lists(nats, min_size=total, max_size=total)))
    return spans, difficulty, draw(st.integers(0, 2**70)), draw(st.integers(1, 10)), draw(st.integers(1, 25))


def numbers(spans: Spans) -> np.ndarray:
    return np.concatenate([np.arange(first, first + count) for first, count in spans])


def epochs(order: DataOrder, count: int) -> list[np.ndarray]:
    """The stream of sequences, cut into epochs."""
    steps = math.ceil(count * order.steps_per_epoch)
    stream = np.concatenate([order.sequences_for_step(step) for step in range(steps)])
    return [stream[epoch * order.num_sequences :][: order.num_sequences] for epoch in range(count)]


# ------------------------------------------------------------------ levels


@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(2, 9), st.integers(1, 2), st.booleans())
def test_levels_hold_every_sequence_once_and_follow_difficulty(
    problem: tuple[Spans, np.ndarray, int, int, int], num_levels: int, num_epochs: int, hardest_first: bool
) -> None:
    spans, difficulty, seed, window, batch = problem
    order = LevelOrder(spans, seed, window, batch, difficulty, num_levels, num_epochs, hardest_first)
    everything, sign = numbers(spans), -1 if hardest_first else 1
    of = dict(zip(everything.tolist(), (sign * difficulty).tolist(), strict=True))
    for epoch, part in enumerate(epochs(order, 3)):
        assert np.array_equal(np.sort(part), everything)
        if epoch >= num_epochs:
            shuffled = epochs(DataOrder(spans, seed, window, batch), epoch + 1)[epoch]
            assert np.array_equal(part, shuffled)
            continue
        # Level l is what the ranking holds from ceil(l·S/L) on: found here by counting, not by the code's own cut.
        cuts = [math.ceil(level * len(part) / num_levels) for level in range(num_levels + 1)]
        levels = [[of[number] for number in part[start:stop].tolist()] for start, stop in itertools.pairwise(cuts)]
        ranked = sorted(of.values())
        assert [value for level in levels for value in sorted(level)] == ranked


def test_within_a_level_the_order_is_shuffled_and_epochs_differ() -> None:
    difficulty = np.arange(40.0)
    order = LevelOrder([(0, 20), (20, 20)], 0, 2, 40, difficulty, 4, 9)
    first, second = epochs(order, 2)
    assert sorted(first[:10]) == sorted(second[:10]) == list(range(10))
    assert first[:10].tolist() != second[:10].tolist()
    assert first[:10].tolist() != list(range(10))


def test_few_shards_are_open_at_a_time() -> None:
    """Of 12 shards: any stretch as long as a window's part of a level meets at most two windows' shards."""
    difficulty = np.random.default_rng(0).random(12 * 32)
    order = LevelOrder([(first, 32) for first in range(0, 12 * 32, 32)], 3, 2, 8, difficulty, 4, 1)
    [stream] = epochs(order, 1)
    runs = stream // 32
    opened = 0
    recent: list[int] = []  # a reader that holds four shards, the oldest closed first
    for shard in runs.tolist():
        if shard not in recent:
            opened, recent = opened + 1, [*recent, shard][-4:]
        else:
            recent = [*(other for other in recent if other != shard), shard]
    assert opened == 4 * 12  # every shard once a level
    assert all(len(set(runs[at : at + 8].tolist())) <= 4 for at in range(len(runs)))


# ------------------------------------------------------------------ weights


@settings(max_examples=60, deadline=None)
@given(problems(), st.floats(0.05, 0.95))
def test_weighted_copies_are_rounded_expectations(
    problem: tuple[Spans, np.ndarray, int, int, int], share: float
) -> None:
    spans, difficulty, seed, window, batch = problem
    order = WeightedOrder(spans, seed, window, batch, difficulty, share)
    mean = difficulty.sum() / len(difficulty)
    expected = 1 - share + share * difficulty / mean if mean else np.ones(len(difficulty))
    everything = numbers(spans)
    for part in epochs(order, 3):
        assert len(part) == len(everything)
        counts = np.array([(part == number).sum() for number in everything])
        assert (counts >= np.floor(expected - 1e-9)).all()
        assert (counts <= np.ceil(expected + 1e-9)).all()


def test_weighted_copies_are_the_expectation_on_average() -> None:
    difficulty = np.array([0.1, 0.4, 1.0, 2.0, 6.0, 3.0, 0.0, 0.5])
    order = WeightedOrder([(0, 8)], 1, 1, 8, difficulty, 0.7)
    mean_copies = np.mean([order.copies(epoch) for epoch in range(4000)], axis=0)
    expected = 0.3 + 0.7 * difficulty / difficulty.mean()
    assert mean_copies == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(4000))
    assert expected_copies(difficulty, 0.7) == pytest.approx(expected)


def test_most_sequences_are_in_every_weighted_epoch() -> None:
    difficulty = np.random.default_rng(1).gamma(2.0, 1.5, 2000)  # as entropies of texts: some thrice the mean
    order = WeightedOrder([(0, 1000), (1000, 1000)], 0, 1, 32, difficulty, 0.5)
    for part in epochs(order, 3):
        assert len(np.unique(part)) > 0.8 * 2000
        assert difficulty[part].mean() > 1.15 * difficulty.mean()


# ------------------------------------------------------------------ both


def make_levels(problem: tuple[Spans, np.ndarray, int, int, int]) -> DataOrder:
    spans, difficulty, seed, window, batch = problem
    return LevelOrder(spans, seed, window, batch, difficulty, 3, 2)


def make_weighted(problem: tuple[Spans, np.ndarray, int, int, int]) -> DataOrder:
    spans, difficulty, seed, window, batch = problem
    return WeightedOrder(spans, seed, window, batch, difficulty, 0.6)


@pytest.mark.parametrize("make", [make_levels, make_weighted])
@settings(max_examples=30, deadline=None)
@given(problem=problems(), data=st.data())
def test_a_step_does_not_depend_on_the_steps_asked_before(
    make: Callable[[tuple[Spans, np.ndarray, int, int, int]], DataOrder],
    problem: tuple[Spans, np.ndarray, int, int, int],
    data: st.DataObject,
) -> None:
    straight = [make(problem)] * 40
    stream = [order.sequences_for_step(step) for step, order in enumerate(straight)]
    for step in data.draw(st.lists(st.integers(0, 39), min_size=1, max_size=8)):
        assert np.array_equal(make(problem).sequences_for_step(step), stream[step])


def test_the_orders_are_pinned() -> None:
    """A training resumed by a later version goes on in the order it began with."""
    spans, difficulty = [(0, 5), (20, 7)], np.array([5, 1, 4, 2, 3, 9, 0, 8, 7, 6, 1, 2], float)
    found = {
        "levels": [LevelOrder(spans, 7, 1, 4, difficulty, 3, 1).sequences_for_step(s).tolist() for s in range(4)],
        "weighted": [WeightedOrder(spans, 7, 1, 4, difficulty, 0.5).sequences_for_step(s).tolist() for s in range(4)],
    }
    assert found == {
        "levels": [[21, 25, 1, 3], [26, 0, 2, 4], [20, 24, 23, 22], [24, 20, 22, 26]],
        "weighted": [[20, 24, 23, 21], [25, 23, 22, 3], [2, 4, 0, 0], [23, 20, 22, 25]],
    }


@pytest.mark.parametrize("wrong", [np.ones(11), np.array([np.nan] * 12), np.full(12, -1.0), np.full(12, np.inf)])
def test_difficulties_that_are_none_are_refused(wrong: np.ndarray) -> None:
    for make in (
        lambda: LevelOrder([(0, 12)], 0, 1, 4, wrong, 3, 1),
        lambda: WeightedOrder([(0, 12)], 0, 1, 4, wrong, 0.5),
    ):
        with pytest.raises(ConfigError, match="expected 12 difficulties of 0 nats or more"):
            make()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"curriculum_levels": 4}, "curriculum_levels has no meaning for train.data_order shuffled"),
        ({"difficulty": "surprise"}, "difficulty has no meaning for train.data_order shuffled"),
        ({"data_order": "weighted", "curriculum_epochs": 2}, "only for easy_first and hard_first"),
        ({"data_order": "easy_first", "hard_share": 0.3}, "only for weighted"),
    ],
)
def test_keys_of_another_order_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainSettings.model_validate({"steps": 1} | values)
