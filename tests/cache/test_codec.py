"""Records through the codec: within its stated bounds, whatever the sizes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cache.codec import ByteCodec, make_codec, whole_chunks
from pipeline.cache.codec_v1 import CodecV1
from pipeline.cache.layout import RecordLayout
from pipeline.cache.precisions import PRECISIONS, Rounded
from pipeline.cache.records import Records
from pipeline.errors import NumericsError
from tests.cache.bounds import check_bounds, kl_nats
from tests.cache.dense import encoded, logits_of, one_by_hand, random_mask, records_of, scored_alone, with_blanks

MASK = np.ones((1, 1), bool)
ROUNDED = ("fine", "small")


def stored(records: Records, sequence_length: int) -> Records:
    """Through the codec and back."""
    codec = ByteCodec(records.layout, sequence_length)
    mask_ST = np.ones((len(records) // sequence_length, sequence_length), bool)
    return codec.decode(codec.encode(records, mask_ST)).rows(slice(0, len(records)))


def layout_of(vocab_size: int, head_size: int, num_draws: int, precision: str) -> RecordLayout:
    return RecordLayout.for_vocabulary(vocab_size, head_size, num_draws, 0.7, precision)


@settings(max_examples=80, deadline=None)
@given(
    vocab_size=st.sampled_from([1, 2, 17, 257, 300, 65536, 65537, 70000]),
    head_size=st.sampled_from([1, 2, 16, 17, 400]),
    num_draws=st.sampled_from([0, 1, 5]),
    num_sequences=st.integers(1, 5),
    sequence_length=st.sampled_from([1, 3, 4, 512, 700]),
    spread=st.sampled_from([0.0, 1.0, 3.0, 30.0, 5000.0]),
    precision=st.sampled_from(list(PRECISIONS)),
    seed=st.integers(0, 100),
)
def test_round_trip_is_within_the_stated_bounds(
    vocab_size: int,
    head_size: int,
    num_draws: int,
    num_sequences: int,
    sequence_length: int,
    spread: float,
    precision: str,
    seed: int,
) -> None:
    layout = layout_of(vocab_size, head_size, num_draws, precision)
    mask_ST = random_mask(num_sequences, sequence_length, seed)
    before = records_of(layout, logits_of(int(mask_ST.sum()), vocab_size, seed, spread), seed)
    codec = ByteCodec(layout, sequence_length)
    after = scored_alone(codec.decode(encoded(codec, with_blanks(before, mask_ST), mask_ST)), mask_ST)
    check_bounds(before.with_ascending_draws(), after)


ROWS = {
    "a trained teacher's": lambda vocab: logits_of(64, vocab, 1),
    "nearly flat": lambda vocab: logits_of(64, vocab, 2, spread=0.3),
    "sharp": lambda vocab: logits_of(64, vocab, 3, spread=8.0),
    "all equal": lambda vocab: np.zeros((4, vocab)),
    "a kink of equals": lambda vocab: np.where(np.arange(vocab) < 1000, 5.0, logits_of(32, vocab, 4, spread=1.0)),
    "a spike of 30": lambda vocab: logits_of(32, vocab, 5) + 30.0 * (np.arange(vocab) == 7),
    "a spike of 80": lambda vocab: logits_of(32, vocab, 6) + 80.0 * (np.arange(vocab) == 7),
    "three above -1e4": lambda vocab: np.where(np.arange(vocab) < 3, logits_of(32, vocab, 7), -1e4),
    "some above -1e4": lambda vocab: np.where(np.arange(vocab) < 200, logits_of(32, vocab, 8), -1e4),
}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("vocab_size", [300, 5000])
def test_rounding_adds_no_more_kl_than_the_law_allows(rows: str, precision: str, vocab_size: int) -> None:
    """The bound is to second order and on the mean of roundings: a single row may exceed it by chance, not by much."""
    records = records_of(layout_of(vocab_size, 128, 8, precision), ROWS[rows](vocab_size))
    found, law = stored(records, 1), PRECISIONS[precision]
    assert isinstance(law, Rounded)
    for temperature in (1.0, 2.0, 3.0):
        kl_N = kl_nats(records, found, temperature)
        assert kl_N.mean() <= 1.05 * law.law.target_nats
        assert kl_N.max() <= 2 * law.law.target_nats
    for temperature in (1.25, 1.5, 4.0):
        assert kl_nats(records, found, temperature).mean() <= 2 * law.law.target_nats


def test_arrays_hold_what_the_page_says() -> None:
    """By hand, at precision small: one position of three head ids and two draws."""
    layout = RecordLayout(1000, 3, 2, precision="small")
    records = one_by_hand(layout)
    codec = ByteCodec(layout, 1024)
    mask_ST = np.zeros((1, 1024), bool)
    mask_ST[0, 1] = True
    whole = Records.blank(layout, 1024)
    for field, part in zip(whole.fields(), records.fields(), strict=True):
        field[1] = part[0]
    arrays = codec.encode(whole, mask_ST)
    assert arrays["ids"].reshape(2, 1024, 3)[:, 1].tolist() == [[5, 2, 893 % 256], [0, 0, 893 // 256]]
    columns = arrays["columns"][0]
    assert columns[: 2 * 2048].reshape(2, 1024, 2)[:, 1].tolist() == [[10, 790 % 256], [0, 790 // 256]]
    assert columns[4096:6144].reshape(1024, 2)[1].tolist() == [0, 20]  # below the best draw, in quarters of a nat
    planes = columns[6144:].reshape(4, 11, 1024)[:, :, 1].astype(np.int64)
    zigzag = planes[0] + (planes[1] << 8) + (planes[2] << 16) + (planes[3] << 24)
    fields = np.where(zigzag % 2, -(zigzag + 1) // 2, zigzag // 2)
    assert fields[0] == -643  # floor: the whole 256th of a nat below -2.51
    floor = -643 / 256
    assert fields[2] == np.floor((floor + 4.0) * 8)  # from the floor down to the best draw, in eighths
    tail = np.rint((records.tail_TR[0] - np.array(layout.betas) * floor) * 256)
    assert fields[3:9].tolist() == [*(tail[:-1] - tail[1:]).tolist(), tail[-1]]
    assert np.array([fields[9], fields[10]], np.int16).view(np.float16).tolist() == [1.5, 0.25]
    step = 1.0 * 2.0 ** (-fields[1] / 8)
    codes = arrays["values"].reshape(2, 1024, 3)[:, 1].astype(np.int64)
    distance = records.logprobs_TK[0] - floor
    bend = 3 * np.log(step * 16)
    curved = 3 * np.expm1(distance / 3) / step
    straight = 3 * (16 - 1 / step) + (distance - bend) * 16
    assert (codes[0] + 256 * codes[1]).tolist() == np.rint(np.where(distance <= bend, curved, straight)).tolist()


@pytest.mark.parametrize("precision", ROUNDED)
def test_softening_after_storage_is_off_by_two_roundings_at_most(precision: str) -> None:
    """One rounding of the value itself, one (an average of them) of logZ, and a little for the tail's polynomial."""
    records = records_of(layout_of(3000, 64, 4, precision), logits_of(50, 3000))
    bound_TK = PRECISIONS[precision].error_nats(records.logprobs_TK)
    for temperature in (1.0, 1.7, 2.6, 4.0):
        for before, after in zip(records.soften(temperature), stored(records, 10).soften(temperature), strict=True):
            assert (np.abs(after - before) <= 2 * bound_TK.max() + 0.003).all()


@pytest.mark.parametrize("cuts", [[1] * 7, [3, 4], [7], [2, 5]])
def test_bytes_do_not_depend_on_how_records_arrive(cuts: list[int]) -> None:
    layout = layout_of(300, 16, 4, "fine")
    records = records_of(layout, logits_of(7 * 400, 300))
    mask_ST = np.random.default_rng(0).random((7, 400)) < 0.8
    codec = ByteCodec(layout, 400)
    assert codec.chunk_sequences == 2
    whole = codec.encode(records, mask_ST)
    edges = np.cumsum([0, *cuts])
    parts = ((records.rows(slice(400 * a, 400 * b)), mask_ST[a:b]) for a, b in itertools.pairwise(edges.tolist()))
    found = [codec.encode(*part) for part in whole_chunks(parts, codec)]
    assert all(len(mask) % 2 == 0 for _, mask in list(whole_chunks([(records, mask_ST)], codec))[:-1])
    for name, array in whole.items():
        assert np.concatenate([part[name] for part in found]).tobytes() == array.tobytes()


def test_the_plans_format_chooses_the_codec() -> None:
    layout = layout_of(300, 16, 4, "fine")
    assert isinstance(make_codec(layout, 8, 1), CodecV1)
    assert isinstance(make_codec(layout, 8, 2), ByteCodec)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("field", ["logprobs_TK", "draw_logprobs_TM", "label_logprobs_T", "entropies_T", "tail_TR"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(field: str, value: float, precision: str) -> None:
    layout = RecordLayout(10, 1, 2, precision=precision)
    records = Records.blank(layout, 1)
    getattr(records, field)[...] = value
    with pytest.raises(NumericsError, match=field):
        ByteCodec(layout, 1).encode(records, MASK)
    assert not ByteCodec(layout, 1).encode(records, ~MASK)["values"].any()


@pytest.mark.parametrize(("head", "draws"), [([3, 3], [0]), ([4, 3], [0]), ([3, 10], [0]), ([3, 4], [10])])
def test_ids_that_no_layout_allows_are_refused(head: list[int], draws: list[int]) -> None:
    records = Records.blank(RecordLayout(10, 2, 1), 1)
    records.ids_TK[0], records.draw_ids_TM[0] = head, draws
    with pytest.raises(ValueError, match=r"must ascend|outside the vocabulary of 10"):
        ByteCodec(records.layout, 1).encode(records, MASK)


@pytest.mark.parametrize(("array", "message"), [("ids", "outside the vocabulary of 100000"), ("values", "the code")])
def test_bytes_no_encoder_writes_do_not_leave_the_decoder(array: str, message: str) -> None:
    layout = RecordLayout(100_000, 3, 0)
    arrays = ByteCodec(layout, 1).encode(Records.blank(layout, 1), ~MASK)
    arrays[array][:] = 255
    with pytest.raises(ValueError, match=message):
        ByteCodec(layout, 1).decode(arrays)


def test_a_step_no_encoder_writes_does_not_leave_the_decoder() -> None:
    layout = RecordLayout(100, 3, 0)
    arrays = ByteCodec(layout, 1024).encode(Records.blank(layout, 1024), np.zeros((1, 1024), bool))
    arrays["columns"][0, 1024:2048] = 200  # the lowest plane of the field after the floor
    with pytest.raises(ValueError, match="a row's step"):
        ByteCodec(layout, 1024).decode(arrays)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 6 records for mask"):
        ByteCodec(RecordLayout(10, 2, 1), 3).encode(Records.blank(RecordLayout(10, 2, 1), 5), np.ones((2, 3), bool))
