"""Sequences: positions restart where documents do; rows are chosen whole."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.sequences import TRAIN, VALIDATION, Sequences


def make_sequences(starts_SW: np.ndarray) -> Sequences:
    rows, width = starts_SW.shape
    ids_SW = np.arange(rows * width, dtype=np.uint32).reshape(rows, width)
    mask_ST = ~starts_SW[:, 1:]
    split = np.array([TRAIN] * (rows - 1) + [VALIDATION], np.uint8)
    return Sequences(ids_SW, mask_ST, starts_SW, split, np.arange(rows, dtype=np.int64))


def test_position_ids_restart_at_each_document() -> None:
    starts = np.zeros((2, 6), np.bool_)
    starts[:, 0] = starts[0, 2] = starts[0, 3] = starts[1, 5] = True
    sequences = make_sequences(starts)
    assert sequences.position_ids().tolist() == [[0, 1, 0, 0, 1], [0, 1, 2, 3, 4]]
    assert sequences.position_ids().dtype == np.int64
    assert sequences.position_ids(np.array([1])).tolist() == [[0, 1, 2, 3, 4]]
    assert sequences.position_ids(slice(0, 0)).shape == (0, 5)


def test_the_smallest_sequence_has_one_position() -> None:
    sequences = make_sequences(np.array([[True, False]]))
    assert (sequences.num_sequences, sequences.sequence_length, sequences.num_scored) == (1, 1, 1)
    assert sequences.position_ids().tolist() == [[0]]


def test_select_keeps_the_order_asked_for() -> None:
    starts = np.zeros((3, 4), np.bool_)
    starts[:, 0] = True
    chosen = make_sequences(starts).select(np.array([2, 0]))
    assert chosen.input_ids[:, 0].tolist() == [8, 0]
    assert chosen.split.tolist() == [VALIDATION, TRAIN]
    assert chosen.num_bytes.tolist() == [2, 0]


def test_arrays_that_do_not_fit_together_are_refused() -> None:
    whole = make_sequences(np.array([[True, False, False]]))
    with pytest.raises(ValueError, match=r"loss_mask: expected shape \(1, 2\), found \(1, 3\)"):
        Sequences(whole.input_ids, whole.document_starts, whole.document_starts, whole.split, whole.num_bytes)
