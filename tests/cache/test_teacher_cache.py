"""Reading a cache: found anywhere, matched by plan, checked on every read."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.context import ForkProcess, SpawnProcess
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache import TeacherCache
from pipeline.cache.layout import RecordLayout
from pipeline.cache.precisions import PRECISIONS
from pipeline.cache.records import Records
from pipeline.cache.teacher_cache import MAX_OPEN_SHARDS
from pipeline.errors import ConfigError, DamagedDataError, IdentityError, IncompleteInputError
from tests.cache.bounds import TAIL_ERROR_NATS
from tests.cache.dense import logits_of, make_cache, make_plan, make_sequences, records_of, write_shards
from tests.reliability.damaging import swap


def _assert_close(found: Records, expected: Records, mask: np.ndarray) -> None:
    found, expected = found.rows(mask), expected.rows(mask)
    assert np.array_equal(found.ids_TK, expected.ids_TK)
    fine = PRECISIONS["fine"]
    assert (np.abs(found.logprobs_TK - expected.logprobs_TK) <= fine.error_nats(expected.logprobs_TK)).all()
    np.testing.assert_allclose(found.tail_TR, expected.tail_TR, atol=TAIL_ERROR_NATS["fine"], rtol=1e-6)
    assert np.array_equal(np.sort(found.draw_ids_TM, axis=1), np.sort(expected.draw_ids_TM, axis=1))


def test_one_sequence(tmp_path: Path) -> None:
    _, sequences, records = make_cache(tmp_path / "run" / "cache")
    cache = TeacherCache.open(tmp_path / "run")
    assert len(cache) == 7
    assert cache.complete
    for index in (0, 1, 4, 6, -1):
        item = cache[index]
        row = index % 7
        assert item.index == row
        assert np.array_equal(item.input_ids, sequences.input_ids[row])
        assert np.array_equal(item.loss_mask_T, sequences.loss_mask[row])
        assert np.array_equal(item.document_starts, sequences.document_starts[row])
        assert (item.split, item.num_bytes) == (sequences.split[row], sequences.num_bytes[row])
        assert len(item.records) == 16
        _assert_close(item.records, records.rows(slice(row * 16, row * 16 + 16)), sequences.loss_mask[row])
    with pytest.raises(IndexError):
        cache[7]


@pytest.mark.parametrize("indices", [[0], [3, 4], [6, 0, 1, 2, 2, 5, 4, 3], list(range(7)), []])
def test_many_sequences_in_the_order_asked_for(tmp_path: Path, indices: list[int]) -> None:
    _, sequences, records = make_cache(tmp_path)
    found, found_records = TeacherCache.open(tmp_path).read(np.array(indices, dtype=np.int64))
    assert np.array_equal(found.input_ids, sequences.input_ids[indices])
    positions = np.array([index * 16 + t for index in indices for t in range(16)], dtype=np.int64)
    _assert_close(found_records, records.rows(positions), found.loss_mask.reshape(-1))


def test_masked_positions_read_as_zeros(tmp_path: Path) -> None:
    _, sequences, _ = make_cache(tmp_path)
    _, records = TeacherCache.open(tmp_path).read(np.arange(7))
    blank = records.rows(~sequences.loss_mask.reshape(-1))
    assert len(blank) > 16
    assert all(not field.any() for field in blank.fields())


def test_parts_are_found_at_any_depth_by_plan_and_not_by_path(tmp_path: Path) -> None:
    plan, sequences, _ = make_cache(tmp_path / "run" / "cache")
    part = tmp_path / "input" / "datasets" / "someone" / "part-1"
    part.mkdir(parents=True)
    for span in plan.shards[:2]:
        for name in (span.shard_name, span.seal_name):
            shutil.move(tmp_path / "run" / "cache" / "shards" / name, part / name)
    make_cache(tmp_path / "input" / "unrelated", seed=5)
    shutil.copy(tmp_path / "run" / "cache" / "plan.json", tmp_path / "input" / "datasets" / "plan.json")

    cache = TeacherCache.open(tmp_path / "run")
    assert [span.index for span in cache.missing] == [0, 1]
    assert not cache.complete
    both = TeacherCache.open(tmp_path / "run", tmp_path / "input")
    assert both.complete
    assert np.array_equal(both[0].input_ids, sequences.input_ids[0])
    assert both.read(np.arange(7))[1].ids_TK.shape == (112, 8)


def test_the_first_root_wins(tmp_path: Path) -> None:
    plan, _, _ = make_cache(tmp_path / "one")
    make_cache(tmp_path / "two")
    second = tmp_path / "two" / "shards" / plan.shards[0].shard_name
    second.write_bytes(b"damaged")
    cache = TeacherCache.open(tmp_path / "one", tmp_path / "two")
    assert cache.shards[0].path == tmp_path / "one" / "shards" / plan.shards[0].shard_name
    cache.read(np.arange(7))


def test_a_root_without_the_plan_can_be_the_only_one_with_shards(tmp_path: Path) -> None:
    make_cache(tmp_path / "mounted")
    (tmp_path / "fresh").mkdir()
    assert TeacherCache.open(tmp_path / "fresh", tmp_path / "mounted").complete
    assert TeacherCache.open(tmp_path / "not-there-yet", tmp_path / "mounted").complete


def test_two_different_caches_are_told_apart(tmp_path: Path) -> None:
    make_cache(tmp_path / "one")
    make_cache(tmp_path / "two", seed=1)
    with pytest.raises(IdentityError, match=r"identity\.teacher\.seed: 0 -> 1"):
        TeacherCache.open(tmp_path)
    with pytest.raises(IdentityError, match="two different caches"):
        TeacherCache.open(tmp_path / "one", tmp_path / "two")


def test_no_cache_at_all(tmp_path: Path) -> None:
    with pytest.raises(IncompleteInputError, match=r"no cache here \(looked for plan\.json, .*cache-teacher"):
        TeacherCache.open(tmp_path)
    with pytest.raises(IncompleteInputError) as caught:
        TeacherCache.open(tmp_path / "gone", tmp_path)
    assert f"in {tmp_path / 'gone'}, which is not there; {tmp_path}). Check the path" in str(caught.value)
    make_cache(tmp_path / "cache")
    with pytest.raises(ConfigError, match="no such folder"):
        TeacherCache.open(tmp_path / "cache", tmp_path / "nowhere")


def test_a_sequence_that_is_not_sealed_yet(tmp_path: Path) -> None:
    plan, _, _ = make_cache(tmp_path)
    (tmp_path / "shards" / plan.shards[1].seal_name).unlink()
    cache = TeacherCache.open(tmp_path)
    cache.read(np.array([0, 1, 4, 5, 6]))
    with pytest.raises(IncompleteInputError, match=r"sequences 2 to 4 are not in any sealed shard \(3 of 4 are\)"):
        cache.read(np.array([0, 3]))
    assert cache.statistics["num_scored"] == sum(shard.seal.num_scored for shard in cache.shards.values())


def test_wrong_sizes_are_seen_at_open_and_wrong_bytes_at_reading(tmp_path: Path) -> None:
    plan, _, _ = make_cache(tmp_path)
    path = tmp_path / "shards" / plan.shards[0].shard_name
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0")
    with pytest.raises(DamagedDataError, match="its seal names"):
        TeacherCache.open(tmp_path)
    path.write_bytes(whole.replace(b"ids/c/0", b"ids/c/7", 1))
    with pytest.raises(DamagedDataError, match=r"00000\.shard"):
        TeacherCache.open(tmp_path).read(np.arange(3))
    path.unlink()
    with pytest.raises(DamagedDataError, match="is missing"):
        TeacherCache.open(tmp_path)


def test_shards_that_changed_places(tmp_path: Path) -> None:
    plan, _, _ = make_cache(tmp_path, num_train=8)
    swap(tmp_path / "shards", *(span.shard_name for span in plan.shards[1:3]))
    with pytest.raises(DamagedDataError):
        TeacherCache.open(tmp_path).read(np.arange(2, 6))


def test_shards_of_the_same_records_that_changed_places(tmp_path: Path) -> None:
    """As long as one another: only what each says of its sequences tells them apart."""
    plan, sequences, records = make_cache(tmp_path, num_train=8)
    one, other = plan.shards[1:3]
    sequences.loss_mask[other.first : other.stop] = sequences.loss_mask[one.first : one.stop]
    for field in records.fields():
        field[other.first * 16 : other.stop * 16] = field[one.first * 16 : one.stop * 16]
    shutil.rmtree(tmp_path / "shards")
    write_shards(tmp_path, plan, sequences, records)
    swap(tmp_path / "shards", one.shard_name, other.shard_name)
    with pytest.raises(DamagedDataError, match="is not that of this shard in this cache"):
        TeacherCache.open(tmp_path).read(np.arange(2, 6))


def test_a_shard_of_another_cache_in_the_place_of_its_own(tmp_path: Path) -> None:
    """As long as its own and of the same records: what it says of its plan is all that tells."""
    plan, sequences, records = make_cache(tmp_path / "one")
    other = replace(plan, identity=plan.identity | {"teacher": "another"})
    write_shards(tmp_path / "other", other, sequences, records)
    one, stale = (tmp_path / name / "shards" / plan.shards[0].shard_name for name in ("one", "other"))
    assert len(stale.read_bytes()) == len(one.read_bytes())
    shutil.copy(stale, one)
    with pytest.raises(DamagedDataError, match="is not that of this shard in this cache"):
        TeacherCache.open(tmp_path / "one").read(np.arange(1))


def test_other_sequences_than_the_plan_was_made_with(tmp_path: Path) -> None:
    make_cache(tmp_path)
    make_cache(tmp_path / "other", seed=3)
    shutil.copy(tmp_path / "other" / "sequences.shard", tmp_path / "sequences.shard")
    shutil.rmtree(tmp_path / "other")
    with pytest.raises(DamagedDataError, match=r"sequences\.shard: has xxh3-128"):
        TeacherCache.open(tmp_path).read(np.arange(2))


def test_few_shard_files_are_open_at_once(tmp_path: Path) -> None:
    layout = RecordLayout(50, 8, 3)
    sequences = make_sequences(20, 1, 16, 50)
    plan = make_plan(tmp_path, sequences, layout, shard_positions=16)
    write_shards(tmp_path, plan, sequences, records_of(layout, logits_of(21 * 16, 50)))
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    with TeacherCache.open(tmp_path) as cache:
        for _ in range(2):
            cache.read(np.arange(21))
        assert len(list(descriptors.iterdir())) <= before + MAX_OPEN_SHARDS + 1, "and the packed sequences"
    assert len(list(descriptors.iterdir())) == before


def test_threads_share_a_cache(tmp_path: Path) -> None:
    layout = RecordLayout(50, 8, 3)
    sequences = make_sequences(20, 1, 16, 50)
    plan = make_plan(tmp_path, sequences, layout, shard_positions=16)
    write_shards(tmp_path, plan, sequences, records_of(layout, logits_of(21 * 16, 50)))
    with TeacherCache.open(tmp_path) as cache, ThreadPoolExecutor(4) as pool:
        expected = [cache[index].records.ids_TK for index in range(21)]
        found = list(pool.map(lambda index: cache[index % 21].records.ids_TK, range(84)))
        assert all(np.array_equal(ids, expected[index % 21]) for index, ids in enumerate(found))


def _digest(cache: TeacherCache) -> str:
    """Of all that is read of seven sequences."""
    sequences, records = cache.read(np.arange(7))
    arrays = (sequences.input_ids, sequences.loss_mask, *records.fields())
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def _child(cache: TeacherCache, expected: str) -> None:
    os._exit(0 if {_digest(cache) for _ in range(5)} == {expected} else 1)


@pytest.mark.parametrize("process_type", [ForkProcess, SpawnProcess])
def test_open_caches_go_into_other_processes(tmp_path: Path, process_type: type[ForkProcess | SpawnProcess]) -> None:
    make_cache(tmp_path)
    with TeacherCache.open(tmp_path) as cache:
        expected = _digest(cache)
        processes = [process_type(target=_child, args=(cache, expected)) for _ in range(2)]
        for process in processes:
            process.start()
        assert {_digest(cache) for _ in range(5)} == {expected}
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]
        assert len(pickle.loads(pickle.dumps(cache))) == 7


def test_a_copy_for_another_thread_has_the_sequences_in_common_and_files_of_its_own(tmp_path: Path) -> None:
    make_cache(tmp_path)
    with TeacherCache.open(tmp_path) as cache:
        other = copy.copy(cache)
        assert other.sequences is cache.sequences
        cache.read(np.arange(7))
        assert (len(cache._open) > 0, len(other._open)) == (True, 0)
        assert np.array_equal(other.read(np.arange(7))[1].ids_TK, cache.read(np.arange(7))[1].ids_TK)
        other.close()
        assert "sequences" not in pickle.loads(pickle.dumps(cache)).__dict__
