"""Bytes a token adds, against Python's own encoder."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from pipeline.data.byte_lengths import bytes_before_characters, bytes_of_ids, bytes_of_spans, count_uncovered, narrowed


@given(st.text())
def test_bytes_before_characters_equal_the_encoder(text: str) -> None:
    expected = [len(text[:length].encode()) for length in range(len(text) + 1)]
    assert bytes_before_characters(text).tolist() == expected


def test_a_split_character_counts_once_and_gaps_with_the_next_token() -> None:
    text = "é  日x "
    ends = np.array([1, 1, 4, 4, 4, 5])  # é in two tokens, two spaces dropped, 日 in three tokens, x, a space dropped
    assert bytes_of_spans(text, ends).tolist() == [2, 0, 5, 0, 0, 1]


def test_spans_that_step_back_add_nothing() -> None:
    assert bytes_of_spans("abcd", np.array([2, 1, 4])).tolist() == [2, 0, 2]
    assert bytes_of_spans("abcd", np.zeros(0, np.int64)).tolist() == []


def test_table_of_a_byte_level_vocabulary() -> None:
    pieces = ["hello", " é", "日", "\n\n"]
    spelled = [
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(p)[0][0] for p in pieces
    ]
    vocabulary = {spelling: number for number, spelling in enumerate(spelled)} | {"▁the": 4, "<|end|>": 6}
    table = bytes_of_ids(vocabulary, {"<|end|>": 6})
    assert table.tolist() == [*(len(piece.encode()) for piece in pieces), 0, 0, 7]


@given(st.text(alphabet="ab \n日", max_size=12), st.data())
def test_uncovered_characters_against_one_at_a_time(text: str, data: st.DataObject) -> None:
    place = st.integers(0, len(text))
    spans = [sorted(data.draw(st.tuples(place, place))) for _ in range(data.draw(st.integers(0, 4)))]
    expected = sum(
        not character.isspace() and not any(start <= index < end for start, end in spans)
        for index, character in enumerate(text)
    )
    starts, ends = np.array(spans, np.int64).reshape(-1, 2).T
    assert count_uncovered(text, starts, ends) == expected


@pytest.mark.parametrize(("largest", "dtype"), [(0, np.uint8), (255, np.uint8), (256, np.uint16), (65_536, np.uint32)])
def test_counts_are_narrowed_to_what_holds_them(largest: int, dtype: type) -> None:
    found = narrowed(np.array([0, largest]))
    assert found.tolist() == [0, largest]
    assert found.dtype == dtype
