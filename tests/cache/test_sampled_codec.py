"""Drawn ids through their codec: every count comes back, label log p and entropy nearly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import PADDING_ID, Records
from pipeline.cache.sampled_codec import FACT_LIMIT_NATS, SampledCodec
from pipeline.errors import NumericsError
from tests.cache.bounds import sampled_fact_error_nats
from tests.cache.dense import encoded, logits_of, random_mask, records_of, scored_alone, with_blanks


def layout_of(vocab_size: int, num_draws: int) -> RecordLayout:
    return RecordLayout.for_vocabulary(vocab_size, 0, num_draws, 1.0, kind="sampled")


@settings(max_examples=60, deadline=None)
@given(
    vocab_size=st.sampled_from([1, 2, 17, 257, 65536, 65537]),
    num_draws=st.sampled_from([1, 2, 16, 50, 300]),
    num_sequences=st.integers(1, 5),
    sequence_length=st.sampled_from([1, 3, 512, 700]),
    spread=st.sampled_from([0.0, 1.0, 3.0, 30.0]),
    seed=st.integers(0, 100),
)
def test_round_trip(
    vocab_size: int, num_draws: int, num_sequences: int, sequence_length: int, spread: float, seed: int
) -> None:
    layout = layout_of(vocab_size, num_draws)
    mask_ST = random_mask(num_sequences, sequence_length, seed)
    before = records_of(layout, logits_of(int(mask_ST.sum()), vocab_size, seed, spread), seed)
    codec = SampledCodec(layout, sequence_length)
    after = scored_alone(codec.decode(encoded(codec, with_blanks(before, mask_ST), mask_ST)), mask_ST)
    for name in ("ids_TK", "logprobs_TK", "tail_TR", "draw_ids_TM", "draw_logprobs_TM"):
        assert np.array_equal(getattr(after, name), getattr(before, name)), name
    for name in ("label_logprobs_T", "entropies_T"):
        exact = np.clip(getattr(before, name), -FACT_LIMIT_NATS, FACT_LIMIT_NATS)
        assert (np.abs(getattr(after, name) - exact) <= sampled_fact_error_nats(np.abs(exact)) + 1e-6).all()


def test_arrays_hold_what_the_page_says() -> None:
    """By hand: ids 3, 3, 700 drawn at the second of three positions."""
    layout = layout_of(1000, 3)
    records = Records.blank(layout, 3)
    records.ids_TK[1], records.logprobs_TK[1] = [3, 700, PADDING_ID], [np.log(2 / 3), np.log(1 / 3), -np.inf]
    records.label_logprobs_T[1], records.entropies_T[1] = -2.6, 1.1
    arrays = SampledCodec(layout, 3).encode(records, np.array([[False, True, False]]))
    planes = arrays["ids"].reshape(2, 3 * 341, 3)[:, :3]
    assert planes[:, 1].tolist() == [[3, 0, 697 % 256], [0, 0, 697 // 256]]
    assert not planes[:, [0, 2]].any()
    assert arrays["columns"].reshape(2, -1)[:, :3].tolist() == [[0, 26, 0], [0, 17, 0]]  # 16·√2.6, 16·√1.1


def test_it_speaks_of_one_temperature() -> None:
    records = records_of(layout_of(30, 7), logits_of(4, 30))
    head_TK, tail_T = records.soften(1.0)
    np.testing.assert_allclose(head_TK, records.logprobs_TK, atol=1e-6)
    assert np.isneginf(tail_T).all()
    for temperature in (1.01, 2.0, 0.5):
        with pytest.raises(ValueError, match="temperature must be 1"):
            records.soften(temperature)


def test_counts_of_another_number_of_draws_are_refused() -> None:
    records = Records.blank(layout_of(1000, 4), 1)
    records.logprobs_TK[0, 0] = np.log(0.75)
    with pytest.raises(ValueError, match="expected counts of 4 draws at every position, found 3"):
        SampledCodec(records.layout, 1).encode(records, np.ones((1, 1), bool))


@pytest.mark.parametrize("field", ["label_logprobs_T", "entropies_T"])
def test_numbers_that_are_not_finite_are_refused(field: str) -> None:
    records = Records.blank(layout_of(1000, 4), 1)
    getattr(records, field)[...] = np.nan
    with pytest.raises(NumericsError, match=field):
        SampledCodec(records.layout, 1).encode(records, np.ones((1, 1), bool))


def test_an_id_outside_the_vocabulary_does_not_leave_the_decoder() -> None:
    codec = SampledCodec(layout_of(1000, 4), 1024)
    arrays = dict(codec.encode(Records.blank(codec.layout, 1024), np.zeros((1, 1024), bool)))
    arrays["ids"][:] = 255
    with pytest.raises(ValueError, match="outside the vocabulary of 1000"):
        codec.decode(arrays)
