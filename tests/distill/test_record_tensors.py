"""Records on their way to the device."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import Records
from pipeline.distill.loss.record_tensors import RecordTensors


def test_every_field_arrives_and_nothing_is_shared() -> None:
    layout = RecordLayout(vocab_size=2**31, head_size=3, num_draws=2)
    records = Records.blank(layout, 2)
    records.ids_TK[:] = [[1, 70_000, 2**31 - 1], [4, 5, 6]]
    records.logprobs_TK[:] = -1.5
    records.tail_TR[:] = -2.5
    records.draw_ids_TM[:] = [[7, 7], [8, 2**31 - 2]]
    records.draw_logprobs_TM[:] = -3.5
    tensors = RecordTensors.from_records(records, "cpu")
    for field in records.fields():
        field[:] = 0
    assert len(tensors) == 2
    assert (tensors.vocab_size, tensors.betas, tensors.draw_beta) == (2**31, layout.betas, 0.7)
    assert tensors.ids_NK.dtype == tensors.draw_ids_NM.dtype == torch.int64
    assert tensors.ids_NK.tolist() == [[1, 70_000, 2**31 - 1], [4, 5, 6]]
    assert tensors.draw_ids_NM.tolist() == [[7, 7], [8, 2**31 - 2]]
    assert (tensors.logprobs_NK == -1.5).all()
    assert (tensors.tail_NR == -2.5).all()
    assert (tensors.draw_logprobs_NM == -3.5).all()


def test_padding_points_at_a_column_of_the_head() -> None:
    records = Records.blank(RecordLayout(vocab_size=9, head_size=3, num_draws=0), 2)
    records.ids_TK[:] = [[5, 2**32 - 1, 2**32 - 1], [1, 2, 2**32 - 1]]
    assert RecordTensors.from_records(records, "cpu").ids_NK.tolist() == [[5, 5, 5], [1, 2, 1]]


def test_arrays_of_any_layout_in_memory() -> None:
    """Reading may hand over views: of every other row, or of memory that must not be written."""
    records = Records.blank(RecordLayout(vocab_size=9, head_size=2, num_draws=1), 6)
    records.ids_TK[:] = np.arange(12).reshape(6, 2) % 9
    for field in records.fields():
        field.flags.writeable = False
    every_other = RecordTensors.from_records(records.rows(slice(None, None, 2)), "cpu")
    assert every_other.ids_NK.tolist() == [[0, 1], [4, 5], [8, 0]]
