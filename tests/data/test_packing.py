"""Packing against an independent route: one id at a time, in plain Python."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.documents import TokenizedDocument
from pipeline.data.packing import Mode, PackedRows, pack

END = 99


def make_document(key: str, ids: list[int], scored: list[bool] | None = None) -> TokenizedDocument:
    flags = [True] * len(ids) if scored is None else scored
    return TokenizedDocument(
        key, np.array(ids, np.uint32), np.array(flags, np.bool_), np.arange(1, len(ids) + 1, dtype=np.int64)
    )


def pack_slowly(
    documents: list[TokenizedDocument], length: int, mode: Mode, begin: Sequence[int] = ()
) -> list[list[tuple[int, bool, bool, int]]]:
    """Rows of (id, counts as a label, begins a document, bytes counted), with nothing vectorised."""
    before, stride = [(token, False, number == 0, 0) for number, token in enumerate(begin)], length - len(begin)
    groups = [documents] if mode == "packed" else [[document] for document in documents]
    rows = []
    for group in groups:
        stream = [
            (int(token), bool(scored) and place > 0, place == 0, int(size))
            for document in group
            for place, (token, scored, size) in enumerate(
                zip(document.ids, document.scored, document.num_bytes, strict=True)
            )
        ]
        own = [token for token, *_ in stream[: len(begin)]]
        begun = mode == "one_document" and bool(begin) and own == list(begin)
        start = 0
        if begun:  # what every row begins with is there once
            stream = stream[len(begin) :]
        while start + 1 < len(stream) or (begun and start == 0):
            row = stream[start : start + stride + 1]
            missing = stride + 1 - len(row)
            row += [(END, False, number == 0, 0) for number in range(missing)]
            first = row[0] if begun and start == 0 else (row[0][0], False, row[0][2] or not begin, 0)
            rows.append([*before, first, *row[1:]])
            start += stride
    return rows


def assert_same(packed: PackedRows, expected: list[list[tuple[int, bool, bool, int]]]) -> None:
    assert packed.input_ids.tolist() == [[entry[0] for entry in row] for row in expected]
    assert packed.loss_mask.tolist() == [[entry[1] for entry in row[1:]] for row in expected]
    assert packed.document_starts.tolist() == [[entry[2] for entry in row] for row in expected]
    assert packed.num_bytes.tolist() == [sum(entry[3] for entry in row[1:] if entry[1]) for row in expected]


def pack_one(
    documents: list[TokenizedDocument], length: int, mode: Mode, begin: Sequence[int] = ()
) -> tuple[PackedRows, int]:
    """Rows and padding of a single split."""
    rows, counts, num_padding = pack([list(documents)], length, mode, END, begin)
    assert counts == [len(rows.num_bytes)]
    return rows, num_padding


documents_strategy = st.lists(
    st.lists(st.tuples(st.integers(0, 98), st.booleans()), min_size=0, max_size=12), min_size=0, max_size=6
)


@pytest.mark.parametrize("mode", ["packed", "one_document"])
@settings(max_examples=150, deadline=None)
@given(texts=documents_strategy, length=st.integers(1, 9))
def test_equals_the_slow_route(mode: Mode, texts: list[list[tuple[int, bool]]], length: int) -> None:
    documents = [
        make_document(str(number), [*(token for token, _ in text), END], [*(scored for _, scored in text), True])
        for number, text in enumerate(texts)
    ]
    packed, _ = pack_one(documents, length, mode)
    assert packed.input_ids.shape[1:] == (length + 1,)
    assert_same(packed, pack_slowly(documents, length, mode))


@pytest.mark.parametrize("mode", ["packed", "one_document"])
@settings(max_examples=150, deadline=None)
@given(texts=documents_strategy, length=st.integers(3, 9), begin=st.sampled_from([(98,), (97, 98)]), own=st.booleans())
def test_every_row_begins_as_texts_do(
    mode: Mode, texts: list[list[tuple[int, bool]]], length: int, begin: tuple[int, ...], own: bool
) -> None:
    """Also where a document does not, as the end of one that is cut in two; each of its labels counts once."""
    first, k = list(begin) * own, len(begin) * own
    documents = [
        make_document(
            str(number), [*first, *(token for token, _ in text), END], [*[False] * k, *(flag for _, flag in text), True]
        )
        for number, text in enumerate(texts)
    ]
    packed, _ = pack_one(documents, length, mode, begin)
    assert_same(packed, pack_slowly(documents, length, mode, begin))
    assert (packed.input_ids[:, : len(begin)] == begin).all()
    expected = [
        int(token)
        for document in documents
        for token, scored in zip(document.ids[1:], document.scored[1:], strict=True)
        if scored
    ]
    assert packed.input_ids[:, 1:][packed.loss_mask].tolist() == expected


def test_a_row_that_goes_on_in_a_text_begins_as_it_does() -> None:
    """Packed, a text that begins a line has its own beginning too, as a document apart."""
    text = make_document("a", [9, 1, 2, 3, 4, END], [False, *[True] * 5])
    packed, _ = pack_one([text], 4, "packed", [9])
    assert packed.input_ids.tolist() == [[9, 9, 1, 2, 3], [9, 3, 4, END, END]]
    assert packed.loss_mask.tolist() == [[False, True, True, True], [False, True, True, False]]
    assert packed.document_starts.tolist() == [[True, True, False, False, False], [True, False, False, False, True]]
    alone, _ = pack_one([text], 4, "one_document", [9])
    assert alone.input_ids.tolist() == [[9, 1, 2, 3, 4], [9, 4, END, END, END]]
    assert alone.loss_mask.tolist() == [[True] * 4, [False, True, False, False]]
    assert alone.document_starts.tolist() == [[True, *[False] * 4], [True, False, False, True, False]]


@pytest.mark.parametrize("mode", ["packed", "one_document"])
@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5), length=st.integers(1, 9))
def test_every_label_counts_once_and_padding_never(mode: Mode, lengths: list[int], length: int) -> None:
    numbers = itertools.count(100)
    documents = [make_document(str(size), [next(numbers) for _ in range(size)]) for size in lengths]
    packed, num_padding = pack_one(documents, length, mode)
    labels = packed.input_ids[:, 1:][packed.loss_mask].tolist()
    assert labels == [int(token) for document in documents for token in document.ids[1:]]
    assert num_padding == int((packed.input_ids == END).sum())


def test_dtypes_are_those_of_sequences() -> None:
    for documents in ([], [make_document("a", [1, 2, 3, END])]):
        packed, _ = pack_one(documents, 2, "packed")
        assert packed.input_ids.dtype == np.uint32
        assert packed.loss_mask.dtype == packed.document_starts.dtype == np.bool_
        assert packed.num_bytes.dtype == np.int64


def test_one_document_rows_never_hold_two_documents() -> None:
    documents = [make_document(str(base), [base, base + 1, base + 2, END]) for base in (10, 20)]
    packed, _ = pack_one(documents, 5, "one_document")
    assert packed.input_ids.tolist() == [[10, 11, 12, END, END, END], [20, 21, 22, END, END, END]]
    assert packed.loss_mask.tolist() == [[True, True, True, False, False]] * 2
    assert packed.document_starts.tolist() == [[True, False, False, False, True, False]] * 2


def test_a_row_continues_with_the_last_id_of_the_row_before() -> None:
    packed, num_padding = pack_one([make_document("a", [1, 2, 3, 4, END])], 2, "packed")
    assert packed.input_ids.tolist() == [[1, 2, 3], [3, 4, END]]
    assert packed.loss_mask.all()
    assert packed.document_starts.tolist() == [[True, False, False]] * 2
    assert num_padding == 0
