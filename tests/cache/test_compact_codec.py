"""A ragged head through its codec: what is stored is what a padded one would hold, and no padding is stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.cache.compact_codec import CompactCodec
from pipeline.cache.layout import RecordLayout
from pipeline.cache.precisions import PRECISIONS, Rounded
from pipeline.cache.records import PADDING_ID, Records
from pipeline.errors import NumericsError
from tests.cache.bounds import check_bounds, kl_nats
from tests.cache.dense import encoded, logits_of, random_mask, records_of, scored_alone, with_blanks


def layout_of(vocab_size: int, head_size: int, precision: str = "fine", head_mass: float = 0.6) -> RecordLayout:
    return RecordLayout.for_vocabulary(vocab_size, head_size, 5, 0.7, precision, "compact", head_mass)


def stored(records: Records, mask_ST: NDArray[np.bool_]) -> Records:
    codec = CompactCodec(records.layout, mask_ST.shape[1])
    return codec.decode(encoded(codec, records, mask_ST))


@settings(max_examples=60, deadline=None)
@given(
    vocab_size=st.sampled_from([2, 17, 257, 65536, 65537]),
    head_size=st.sampled_from([1, 2, 16, 64, 255]),
    num_sequences=st.integers(1, 5),
    sequence_length=st.sampled_from([1, 3, 512, 700]),
    spread=st.sampled_from([0.0, 1.0, 3.0, 30.0]),
    head_mass=st.sampled_from([0.01, 0.6, 0.999]),
    precision=st.sampled_from(list(PRECISIONS)),
    seed=st.integers(0, 100),
)
def test_round_trip_is_within_the_stated_bounds(
    vocab_size: int,
    head_size: int,
    num_sequences: int,
    sequence_length: int,
    spread: float,
    head_mass: float,
    precision: str,
    seed: int,
) -> None:
    layout = layout_of(vocab_size, head_size, precision, head_mass)
    mask_ST = random_mask(num_sequences, sequence_length, seed)
    before = records_of(layout, logits_of(int(mask_ST.sum()), vocab_size, seed, spread), seed)
    after = scored_alone(stored(with_blanks(before, mask_ST), mask_ST), mask_ST)
    padding_TK = before.ids_TK == PADDING_ID
    assert np.array_equal(after.logprobs_TK == -np.inf, padding_TK)
    check_bounds(_without_padding(before, padding_TK), _without_padding(after, padding_TK))


def _without_padding(records: Records, padding_TK: NDArray[np.bool_]) -> Records:
    """Padding as zeros, which are within any bound of each other."""
    fields = list(records.with_ascending_draws().fields())
    fields[0], fields[1] = np.where(padding_TK, 0, fields[0]), np.where(padding_TK, np.float32(0.0), fields[1])
    fields[0] = fields[0].astype(np.uint32)
    return Records(records.layout, *fields)


@pytest.mark.parametrize("spread", [0.3, 3.0, 8.0])
def test_rounding_adds_no_more_kl_than_the_law_allows(spread: float) -> None:
    records = records_of(layout_of(5000, 64, head_mass=0.9), logits_of(200, 5000, 1, spread))
    found, law = stored(records, np.ones((200, 1), bool)).rows(slice(0, 200)), PRECISIONS["fine"]
    assert isinstance(law, Rounded)
    for temperature in (1.0, 2.0, 3.0):
        kl_N = kl_nats(records, found, temperature)
        assert kl_N.mean() <= 1.05 * law.law.target_nats
        assert kl_N.max() <= 2 * law.law.target_nats


def test_planes_hold_the_real_entries_one_after_another() -> None:
    """By hand: heads of 2, none (masked) and 1."""
    layout = RecordLayout.for_vocabulary(1000, 3, 0, 0.7, "fine", "compact", 0.9)
    records = Records.blank(layout, 3)
    records.ids_TK[:] = [[5, 700, PADDING_ID], [0, PADDING_ID, PADDING_ID], [9, PADDING_ID, PADDING_ID]]
    records.logprobs_TK[:] = np.where(records.ids_TK == PADDING_ID, -np.inf, -0.5)
    arrays = CompactCodec(layout, 3).encode(records, np.array([[True, False, True]]))
    positions = 3 * 341
    low, high = arrays["ids"].reshape(2, 3 * positions)[:, :4].tolist()
    assert (low, high) == ([5, 695 % 256, 9, 0], [0, 695 // 256, 0, 0])
    assert arrays["columns"][0, :4].tolist() == [2, 0, 1, 0]
    assert not arrays["ids"].reshape(2, -1)[:, 3:].any()


def test_a_count_no_encoder_writes_does_not_leave_the_decoder() -> None:
    layout = layout_of(100, 4)
    codec = CompactCodec(layout, 1024)
    arrays = dict(codec.encode(Records.blank(layout, 1024), np.zeros((1, 1024), bool)))
    arrays["columns"][0, 7] = 5
    with pytest.raises(ValueError, match="a head of 5 ids, where at most 4"):
        codec.decode(arrays)


@pytest.mark.parametrize(
    ("ids", "message"),
    [([PADDING_ID, PADDING_ID], "at least one id"), ([3, 3], "ascend"), ([100, PADDING_ID], "outside the vocabulary")],
)
def test_heads_that_no_layout_allows_are_refused(ids: list[int], message: str) -> None:
    records = Records.blank(layout_of(100, 2), 1)
    records.ids_TK[0] = ids
    records.logprobs_TK[0] = np.where(records.ids_TK[0] == PADDING_ID, -np.inf, -1.0)
    with pytest.raises(ValueError, match=message):
        CompactCodec(records.layout, 1).encode(records, np.ones((1, 1), bool))


def test_an_infinity_that_is_no_padding_is_refused() -> None:
    records = Records.blank(layout_of(100, 2), 1)
    records.ids_TK[0] = [3, 4]
    with pytest.raises(NumericsError, match="elsewhere than at padding"):
        CompactCodec(records.layout, 1).encode(records, np.ones((1, 1), bool))
