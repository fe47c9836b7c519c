"""Training and validation documents: decided by keys alone, never an empty side."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import splits
from pipeline.data.documents import TokenizedDocument, order_key
from pipeline.data.splits import HUGE_TOKENS, cut_in_two, is_held_out, split_documents, split_place
from pipeline.errors import ConfigError

END = 99


def make_document(key: str, size: int = 4) -> TokenizedDocument:
    ids = np.arange(size, dtype=np.uint32)
    ids[-1] = END
    return TokenizedDocument(key, ids, np.ones(size, np.bool_), np.ones(size, np.int64))


def test_places_are_spread_evenly_and_never_change() -> None:
    places = np.array([split_place(f"document {number}") for number in range(4000)])
    assert places.min() >= 0
    assert places.max() < 1
    assert abs(np.histogram(places, 10, (0, 1))[0] - 400).max() < 80
    assert split_place("abc.py") == 0.2703966808253566


@given(st.sets(st.text(max_size=8), min_size=2, max_size=40), st.floats(0.01, 0.49))
def test_every_document_is_on_one_side_and_both_sides_hold_some(keys: set[str], fraction: float) -> None:
    train, validation = split_documents([make_document(key) for key in sorted(keys)], fraction, 7, END)
    assert sorted(document.key for document in [*train, *validation]) == sorted(keys)
    assert train
    assert validation
    for part in (train, validation):
        assert part == sorted(part, key=lambda document: order_key(7, document.key))
    highest, lowest = max(split_place(d.key) for d in validation), min(split_place(d.key) for d in train)
    assert highest < lowest


def test_the_order_documents_come_in_does_not_matter() -> None:
    documents = [make_document(f"{number}.txt") for number in range(50)]
    one, other = split_documents(documents, 0.1, 0, END), split_documents(documents[::-1], 0.1, 0, END)
    assert [[d.key for d in part] for part in one] == [[d.key for d in part] for part in other]
    assert [d.key for d in one[1]] == [
        key for key in sorted((d.key for d in documents), key=lambda key: order_key(0, key)) if is_held_out(key, 0.1)
    ]


def test_another_seed_is_another_order_of_the_same_documents() -> None:
    documents = [make_document(f"{number}.txt") for number in range(50)]
    first, second = (split_documents(documents, 0.1, seed, END)[0] for seed in (0, 1))
    assert [d.key for d in first] != [d.key for d in second]
    assert {d.key for d in first} == {d.key for d in second}


def test_an_empty_side_is_filled_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    documents = [make_document(f"{number}.txt") for number in range(41)]
    train, validation = split_documents(documents, 1e-9, 0, END)
    assert (len(train), len(validation)) == (40, 1)
    assert "of 41 documents the hash of their keys held out 0; 1 it is" in capsys.readouterr().err


@given(st.integers(4, 200), st.floats(0.001, 0.499))
def test_a_single_document_is_cut_without_losing_an_id(size: int, fraction: float) -> None:
    document = make_document("only.txt", size)
    beginning, end = cut_in_two(document, fraction, END)
    assert np.concatenate((beginning.ids[:-1], end.ids)).tolist() == document.ids.tolist()
    assert beginning.ids[-1] == end.ids[-1] == END
    assert not beginning.scored[-1]
    assert beginning.num_bytes.sum() + end.num_bytes.sum() == document.num_bytes.sum()
    assert min(len(beginning.ids), len(end.ids)) >= 2
    assert abs(len(end.ids) - size * fraction) <= 2


def test_a_single_document_too_short_to_cut_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"document only\.txt: is the only usable one and has 3 tokens"):
        split_documents([make_document("only.txt", 3)], 0.1, 0, END)


@pytest.mark.parametrize("lower_is_huge", [False, True])
def test_of_two_files_of_unlike_size_the_huge_one_is_cut(
    lower_is_huge: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = sorted(("a.txt", "b.txt"), key=split_place)
    sizes = (50 * HUGE_TOKENS, 100)[:: 1 if lower_is_huge else -1]
    documents = [make_document(key, size) for key, size in zip(keys, sizes, strict=True)]
    train, validation = split_documents(documents, 0.02, 0, END)
    num_train, num_validation = (sum(len(d.ids) for d in part) for part in (train, validation))
    assert num_validation / (num_train + num_validation) == pytest.approx(0.02, rel=0.01)
    huge = keys[0] if lower_is_huge else keys[1]
    assert f"{huge} (beginning)" in [d.key for d in train]
    assert f"{huge} (end)" in [d.key for d in validation]
    assert num_train + num_validation == sum(sizes) + 1  # the beginning ends with an end-of-text id of its own
    said = capsys.readouterr().err
    assert "data.validation_fraction asks for 2.0%; so of each document of 65,536 tokens or more (1 of 2)" in said
    again = split_documents(documents[::-1], 0.02, 0, END)
    assert [[d.key for d in part] for part in again] == [[d.key for d in part] for part in (train, validation)]


@pytest.mark.parametrize(("size", "count"), [(HUGE_TOKENS, 40), (HUGE_TOKENS - 1, 2)])
def test_many_huge_documents_and_small_ones_stay_whole(size: int, count: int) -> None:
    documents = [make_document(f"{number}.txt", size) for number in range(count)]
    train, validation = split_documents(documents, 0.02, 0, END)
    assert sorted(d.key for d in [*train, *validation]) == sorted(d.key for d in documents)


def test_beginnings_do_not_teach_that_the_text_ends() -> None:
    cut = splits.beginning_of(make_document("a", 10), 4, END, "a")
    assert cut.ids.tolist() == [0, 1, 2, 3, END]
    assert cut.scored.tolist() == [True] * 4 + [False]
    assert cut.num_bytes.tolist() == [1] * 4 + [0]
