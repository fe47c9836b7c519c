"""The order of the data is arithmetic: complete, shuffled, and the same however it is asked for."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.distill.batching.order import DataOrder
from pipeline.errors import ConfigError

SPANS = [(0, 5), (5, 3), (20, 7), (27, 1), (30, 6)]
EVERYTHING = np.concatenate([np.arange(first, first + count) for first, count in SPANS])


@st.composite
def orders(draw: st.DrawFn) -> tuple[DataOrder, np.ndarray]:
    spans, first = [], 0
    for count, gap in draw(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=8)):
        spans.append((first + gap, count))
        first += gap + count
    window, batch = draw(st.integers(1, 10)), draw(st.integers(1, 25))
    order = DataOrder(spans, draw(st.integers(0, 2**70)), window, batch)
    return order, np.concatenate([np.arange(start, start + count) for start, count in spans])


@settings(max_examples=60, deadline=None)
@given(orders())
def test_every_sequence_exactly_once_an_epoch(made: tuple[DataOrder, np.ndarray]) -> None:
    order, everything = made
    steps = math.ceil(3 * order.steps_per_epoch)
    batches = [order.sequences_for_step(step) for step in range(steps)]
    assert all(batch.shape == (order.batch,) and batch.dtype == np.int64 for batch in batches)
    stream = np.concatenate(batches)
    for epoch in range(3):
        part = stream[epoch * len(everything) : (epoch + 1) * len(everything)]
        assert np.array_equal(np.sort(part), everything)


@settings(max_examples=30, deadline=None)
@given(orders(), st.data())
def test_a_step_does_not_depend_on_the_steps_asked_before(
    made: tuple[DataOrder, np.ndarray], data: st.DataObject
) -> None:
    order, _ = made
    steps = data.draw(st.lists(st.integers(0, 200), min_size=1, max_size=12))
    fresh = [DataOrder(order._spans, order.seed, order.window_shards, order.batch) for _ in steps]
    for step, other in zip(steps, fresh, strict=True):
        assert np.array_equal(order.sequences_for_step(step), other.sequences_for_step(step))


def test_a_window_is_a_few_whole_shards_shuffled_together() -> None:
    """Six shards of four sequences, windows of two, steps as long as a window: each step meets two whole shards."""
    order = DataOrder([(first, 4) for first in range(0, 24, 4)], seed=3, window_shards=2, batch=8)
    for epoch in range(4):
        batches = [order.sequences_for_step(3 * epoch + window) for window in range(3)]
        shards = [np.unique(batch // 4).tolist() for batch in batches]
        assert [len(met) for met in shards] == [2, 2, 2]
        assert sorted(shard for met in shards for shard in met) == list(range(6))
        assert any(len(set((batch[:4] // 4).tolist())) == 2 for batch in batches)  # not one shard after the other


def test_epochs_and_seeds_differ() -> None:
    def epoch(seed: int, number: int) -> list[int]:
        order = DataOrder([(0, 50), (50, 50)], seed, window_shards=2, batch=100)
        return order.sequences_for_step(number).tolist()

    kinds = {tuple(epoch(seed, number)) for seed in (0, 1, 2**63, 2**63 + 1, 2**64) for number in range(3)}
    assert len(kinds) == 15
    assert tuple(range(100)) not in kinds


def test_the_same_in_another_process() -> None:
    code = (
        "from pipeline.distill.batching.order import DataOrder;"
        f"print(DataOrder({SPANS}, 7, 2, 4).sequences_for_step(1234).tolist())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(DataOrder(SPANS, 7, 2, 4).sequences_for_step(1234).tolist())


def test_the_order_is_pinned() -> None:
    """A training resumed by a later version goes on in the order it began with."""
    order = DataOrder(SPANS, seed=7, window_shards=2, batch=4)
    assert [order.sequences_for_step(step).tolist() for step in (0, 1, 5, 1000)] == [
        [30, 35, 7, 33],
        [31, 5, 34, 6],
        [1, 3, 6, 24],
        [24, 21, 25, 27],
    ]


def test_steps_of_an_epoch() -> None:
    assert DataOrder(SPANS, 0, 2, 4).steps_per_epoch == 5.5


@pytest.mark.parametrize("spans", [[], [(4, 0)]])
def test_nothing_to_train_on(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(ConfigError, match="at least one training sequence"):
        DataOrder(spans, 0, 1, 1)
