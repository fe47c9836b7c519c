"""Folding: reductions and members against plain loops."""

from __future__ import annotations

import pytest
import torch

from pipeline.models.folding import Folding


@pytest.mark.parametrize(("vocab_size", "num_columns"), [(1, 1), (5, 5), (7, 3), (12, 4), (300, 17), (301, 300)])
def test_columns_hold_every_id_once_and_reduce_over_their_own(vocab_size, num_columns):
    folding = Folding(vocab_size, num_columns)
    values = torch.randn(2, vocab_size, dtype=torch.float64)
    largest, sums = folding.largest(values), folding.sums(values)
    seen = []
    for column in range(num_columns):
        ids, exists = folding.ids_in(torch.tensor([[column]]))
        own = ids[0, 0][exists[0, 0]].tolist()
        assert own == list(range(column, vocab_size, num_columns))
        torch.testing.assert_close(largest[:, column], values[:, own].amax(dim=1))
        torch.testing.assert_close(sums[:, column], values[:, own].sum(dim=1))
        seen += own
    assert sorted(seen) == list(range(vocab_size))


@pytest.mark.parametrize(("vocab_size", "num_wanted"), [(1, 1), (3, 2), (300, 299), (49_152, 257), (10, 100)])
def test_a_search_has_enough_columns_and_never_empty_ones(vocab_size, num_wanted):
    num_columns = Folding.for_search(vocab_size, num_wanted).num_columns
    assert min(vocab_size, num_wanted) <= num_columns <= vocab_size
