"""sequences.shard: what was packed is what is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.cache.sequence_file import read_sequences, write_sequences
from pipeline.errors import DamagedDataError
from tests.cache.dense import make_sequences

FIELDS = ("input_ids", "loss_mask", "document_starts", "split", "num_bytes")


@pytest.mark.parametrize(
    ("num_train", "num_validation", "sequence_length"),
    [(1, 0, 1), (1, 1, 3), (40, 3, 16), (3, 2, 140_000), (9, 1, 90_000)],
)
def test_round_trip(tmp_path: Path, num_train: int, num_validation: int, sequence_length: int) -> None:
    before = make_sequences(num_train, num_validation, sequence_length, 100_000)
    digest = write_sequences(tmp_path / "sequences.shard", before)
    assert write_sequences(tmp_path / "again.shard", before) == digest
    after = read_sequences(tmp_path / "sequences.shard", before.num_sequences, sequence_length, digest.xxh3_128)
    for name in FIELDS:
        assert getattr(after, name).dtype == getattr(before, name).dtype
        assert np.array_equal(getattr(after, name), getattr(before, name))


def test_another_file_than_the_plan_names(tmp_path: Path) -> None:
    path = tmp_path / "sequences.shard"
    digest = write_sequences(path, make_sequences(3, 1, 8, 50)).xxh3_128
    write_sequences(path, make_sequences(3, 1, 8, 50, seed=1))
    with pytest.raises(DamagedDataError, match=r"the plan names.*cache-teacher"):
        read_sequences(path, 4, 8, digest)
    path.unlink()
    with pytest.raises(DamagedDataError, match="is missing"):
        read_sequences(path, 4, 8, digest)


def test_another_size_than_the_plan_names(tmp_path: Path) -> None:
    path = tmp_path / "sequences.shard"
    digest = write_sequences(path, make_sequences(3, 1, 8, 50)).xxh3_128
    with pytest.raises(DamagedDataError, match="damaged at"):
        read_sequences(path, 5, 8, digest)
