"""sequences.shard: what was packed is what is read."""

from __future__ import annotations

import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache import sequence_file
from pipeline.cache.sequence_file import StoredSequences, write_sequences
from pipeline.data.sequences import Sequences
from pipeline.errors import DamagedDataError
from tests.cache.dense import make_sequences

FIELDS = ("input_ids", "loss_mask", "document_starts", "split", "num_bytes")


def stored_at(path: Path, sequences: Sequences) -> StoredSequences:
    digest = write_sequences(path, sequences).xxh3_128
    return StoredSequences(path, sequences.num_sequences, sequences.sequence_length, digest)


def assert_same(found: Sequences, expected: Sequences) -> None:
    for name in FIELDS:
        assert getattr(found, name).dtype == getattr(expected, name).dtype
        assert np.array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize(
    ("num_train", "num_validation", "sequence_length"),
    [(1, 0, 1), (1, 1, 3), (40, 3, 16), (3, 2, 140_000), (9, 1, 90_000)],
)
def test_round_trip(tmp_path: Path, num_train: int, num_validation: int, sequence_length: int) -> None:
    before = make_sequences(num_train, num_validation, sequence_length, 100_000)
    digest = write_sequences(tmp_path / "sequences.shard", before)
    assert write_sequences(tmp_path / "again.shard", before) == digest
    stored = StoredSequences(tmp_path / "sequences.shard", before.num_sequences, sequence_length, digest.xxh3_128)
    after = stored.select(slice(None))
    assert_same(after, before)


def test_another_file_than_the_plan_names(tmp_path: Path) -> None:
    path = tmp_path / "sequences.shard"
    digest = write_sequences(path, make_sequences(3, 1, 8, 50)).xxh3_128
    write_sequences(path, make_sequences(3, 1, 8, 50, seed=1))
    with pytest.raises(DamagedDataError, match=r"the plan names.*cache-teacher"):
        StoredSequences(path, 4, 8, digest)
    path.unlink()
    with pytest.raises(DamagedDataError, match="is missing"):
        StoredSequences(path, 4, 8, digest)


def test_another_size_than_the_plan_names(tmp_path: Path) -> None:
    path = tmp_path / "sequences.shard"
    digest = write_sequences(path, make_sequences(3, 1, 8, 50)).xxh3_128
    with pytest.raises(DamagedDataError, match="damaged at"):
        StoredSequences(path, 5, 8, digest)


def test_rows_in_any_order_from_chunks_that_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six chunks of three sequences, of which two are kept: what is unpacked again is the same."""
    monkeypatch.setattr(sequence_file, "_CHUNK_POSITIONS", 27)
    monkeypatch.setattr(sequence_file, "_KEPT_BYTES", 2 * 27 * 5)
    before = make_sequences(15, 2, 8, 50)
    stored = stored_at(tmp_path / "sequences.shard", before)
    assert np.array_equal(stored.scored_counts, before.scored_counts)
    assert np.array_equal(stored.scored_counts, before.loss_mask.sum(axis=1))
    chance = np.random.default_rng(0)
    for rows in [slice(None), slice(4, 11), slice(14, 30), *(chance.integers(0, 17, 9) for _ in range(50))]:
        assert_same(stored.select(rows), before.select(rows))
        assert len(stored._kept) <= 2
    assert_same(stored.select(np.array([], np.int64)), before.select(np.array([], np.int64)))
    stored.close()
    assert_same(stored.select(np.array([16, 0, 16])), before.select(np.array([16, 0, 16])))


@pytest.mark.parametrize("rows", [[17], [-1], [0, 17]])
def test_a_sequence_that_is_not_there(tmp_path: Path, rows: list[int]) -> None:
    stored = stored_at(tmp_path / "sequences.shard", make_sequences(15, 2, 8, 50))
    with pytest.raises(IndexError, match="has sequences 0 to 16"):
        stored.select(np.array(rows))


def test_threads_share_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_file, "_CHUNK_POSITIONS", 27)
    monkeypatch.setattr(sequence_file, "_KEPT_BYTES", 27 * 5)
    before = make_sequences(15, 2, 8, 50)
    stored = stored_at(tmp_path / "sequences.shard", before)

    def read(seed: int) -> None:
        chance = np.random.default_rng(seed)
        for _ in range(100):
            rows = chance.integers(0, 17, 4)
            assert_same(stored.select(rows), before.select(rows))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))


def test_damage_after_it_was_opened_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_file, "_CHUNK_POSITIONS", 27)
    path = tmp_path / "sequences.shard"
    stored = stored_at(path, make_sequences(15, 2, 8, 50))
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("input_ids/c/4/0").header_offset + 60
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes([data[place] ^ 1]))
    stored.close()  # what was read ahead of it is let go of
    stored.select(slice(0, 12))
    with pytest.raises(DamagedDataError, match="damaged at array 'input_ids', rows 12 to 15"):
        stored.select(slice(12, 15))
    with pytest.raises(DamagedDataError):
        stored.check_chunks()
