"""Records through the codec of format 1: within its stated bounds, whatever the sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cache.codec_v1 import VALUE_FLOOR_NATS, CodecV1
from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import Records
from pipeline.errors import NumericsError
from tests.cache.bounds import FLOAT16_RELATIVE_ERROR, V1_TAIL_ERROR_NATS, V1_VALUE_ERROR_NATS
from tests.cache.dense import logits_of, one_by_hand, records_of

MASK = np.ones((1, 1), bool)


def _draws(records: Records, row: int) -> list[tuple[int, float]]:
    return sorted(zip(records.draw_ids_TM[row].tolist(), records.draw_logprobs_TM[row].tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(
    vocab_size=st.sampled_from([1, 2, 17, 300, 65536, 65537, 70000]),
    head_size=st.sampled_from([1, 2, 16, 17, 400]),
    num_draws=st.sampled_from([0, 1, 5]),
    num_sequences=st.integers(1, 3),
    sequence_length=st.integers(1, 4),
    spread=st.sampled_from([0.0, 1.0, 3.0, 30.0, 5000.0]),
    seed=st.integers(0, 100),
)
def test_round_trip_is_within_the_stated_bounds(
    vocab_size: int, head_size: int, num_draws: int, num_sequences: int, sequence_length: int, spread: float, seed: int
) -> None:
    layout = RecordLayout.for_vocabulary(vocab_size, head_size, num_draws, 0.7)
    records = records_of(layout, logits_of(num_sequences * sequence_length, vocab_size, seed, spread), seed)
    mask_ST = np.random.default_rng(seed).random((num_sequences, sequence_length)) < 0.7
    arrays = CodecV1(layout, sequence_length).encode(records, mask_ST)
    for array in CodecV1(layout, sequence_length).schema(num_sequences):
        assert (arrays[array.name].dtype, arrays[array.name].shape) == (np.dtype(array.dtype), array.shape)
        assert not arrays[array.name][~mask_ST].any()

    scored = mask_ST.reshape(-1)
    before, after = records.rows(scored), CodecV1(layout, sequence_length).decode(arrays).rows(scored)
    assert np.array_equal(before.ids_TK, after.ids_TK)
    floored_TK = np.maximum(before.logprobs_TK, VALUE_FLOOR_NATS)
    np.testing.assert_allclose(after.logprobs_TK, floored_TK, atol=V1_VALUE_ERROR_NATS, rtol=0)
    np.testing.assert_allclose(after.tail_TR, before.tail_TR, atol=V1_TAIL_ERROR_NATS, rtol=2.0**-23)
    for name in ("label_logprobs_T", "entropies_T"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), rtol=FLOAT16_RELATIVE_ERROR, atol=1e-7)
    for row in range(len(before)):
        for (id_before, logp_before), (id_after, logp_after) in zip(
            _draws(before, row), _draws(after, row), strict=True
        ):
            assert id_before == id_after
            assert logp_after == pytest.approx(max(logp_before, VALUE_FLOOR_NATS), abs=V1_VALUE_ERROR_NATS)


def test_arrays_hold_what_the_page_says() -> None:
    """By hand: differences of ids, steps of 1/32 and 1/256 nat, two float16 in the last column."""
    records = one_by_hand(RecordLayout(1000, 3, 2))
    arrays = CodecV1(records.layout, 1).encode(records, MASK)
    assert arrays["ids"].tolist() == [[[5, 2, 893, 10, 790]]]
    assert arrays["values"].tolist() == [[[16, 32, 80, 128, 288]]]
    assert arrays["columns"][0, 0, :6].tolist() == [256, 128, 64, -256, -512, -768]
    halves = arrays["columns"][0, 0, 6:].tobytes()
    assert np.frombuffer(halves, "<f2").tolist() == [-1.5, 0.25]


def test_softening_after_storage_is_off_by_two_roundings_at_most() -> None:
    """One rounding of the value itself, one (an average of them) of logZ, and a little for the tail's polynomial."""
    logits_NV = logits_of(50, 3000)
    records = records_of(RecordLayout(3000, 64, 4), logits_NV)
    uniform = CodecV1(records.layout, 10)
    stored = uniform.decode(uniform.encode(records, np.ones((5, 10), bool)))
    for temperature in (1.0, 1.7, 2.6, 4.0):
        for before, after in zip(records.soften(temperature), stored.soften(temperature), strict=True):
            np.testing.assert_allclose(after, before, atol=2 * V1_VALUE_ERROR_NATS + 0.003)


@pytest.mark.parametrize("field", ["logprobs_TK", "draw_logprobs_TM", "label_logprobs_T", "entropies_T", "tail_TR"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(field: str, value: float) -> None:
    records = Records.blank(RecordLayout(10, 1, 2), 1)
    getattr(records, field)[...] = value
    with pytest.raises(NumericsError, match=field):
        CodecV1(records.layout, 1).encode(records, MASK)
    assert not CodecV1(records.layout, 1).encode(records, ~MASK)["values"].any()


@pytest.mark.parametrize(("head", "draws"), [([3, 3], [0]), ([4, 3], [0]), ([3, 10], [0]), ([3, 4], [10])])
def test_ids_that_no_layout_allows_are_refused(head: list[int], draws: list[int]) -> None:
    records = Records.blank(RecordLayout(10, 2, 1), 1)
    records.ids_TK[0], records.draw_ids_TM[0] = head, draws
    with pytest.raises(ValueError, match=r"must ascend|outside the vocabulary of 10"):
        CodecV1(records.layout, 1).encode(records, MASK)


def test_ids_outside_the_vocabulary_do_not_leave_the_decoder() -> None:
    layout = RecordLayout(100_000, 3, 0)
    arrays = CodecV1(layout, 1).encode(Records.blank(layout, 1), ~MASK)
    arrays["ids"][0, 0] = [2**32 - 1, 1, 1]
    with pytest.raises(ValueError, match="outside the vocabulary of 100000"):
        CodecV1(layout, 1).decode(arrays)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 6 records for mask"):
        CodecV1(RecordLayout(10, 2, 1), 3).encode(Records.blank(RecordLayout(10, 2, 1), 5), np.ones((2, 3), bool))
