"""Shard files: the same bytes every time, readable by other means, and nothing wrong in them goes unnoticed."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numcodecs.blosc
import numcodecs.zstd
import numpy as np
import pytest
import zarr

from pipeline import files
from pipeline.cache.packed_size import packed_size
from pipeline.cache.schema import Arrays, ArraySchema
from pipeline.cache.shard import ShardFile, write_shard
from pipeline.errors import DamagedDataError, StorageError
from tests.cache.zips import Entries, entries_of, with_checksum, write_entries

ATTRIBUTES = {"content": "records", "first": 0}
SCHEMA = (
    ArraySchema("ids", "uint16", (3, 4, 5), "zstd"),
    ArraySchema("values", "uint16", (3, 4, 5), "bitshuffle"),
    ArraySchema("columns", "int32", (3, 4, 2), "bitshuffle"),
)


def _arrays(seed: int = 0) -> Arrays:
    generator = np.random.default_rng(seed)
    arrays = {array.name: generator.integers(0, 999, array.shape).astype(array.dtype) for array in SCHEMA}
    for array in arrays.values():
        array[1] = 0  # a chunk that is all fill must still be there
    return arrays


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "00000.shard"
    write_shard(path, SCHEMA, ATTRIBUTES, [_arrays()])
    return path


def _read_all(path: Path) -> Arrays:
    with ShardFile(path, SCHEMA, ATTRIBUTES) as file:
        return {array.name: file.read(array.name, 0, array.shape[0]) for array in SCHEMA}


def _same(before: Arrays, after: Arrays) -> bool:
    return all(np.array_equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)


def test_what_was_written_is_read(shard: Path) -> None:
    assert _same(_arrays(), _read_all(shard))
    with ShardFile(shard, SCHEMA, ATTRIBUTES) as file:
        assert file.read("ids", 1, 2).tolist() == [[[0] * 5] * 4]
        assert file.read("ids", 2, 2).shape == (0, 4, 5)
        assert np.array_equal(file.read("values", 2, 3), _arrays()["values"][2:])


def test_the_same_bytes_every_time_and_however_blocks_were_cut(shard: Path) -> None:
    before = shard.read_bytes()
    blocks = [{name: array[start : start + 1] for name, array in _arrays().items()} for start in range(3)]
    digest = write_shard(shard, SCHEMA, ATTRIBUTES, blocks)
    assert shard.read_bytes() == before
    assert digest == files.digest_bytes(before)


@pytest.mark.parametrize("place", [10, 14, 40, 200, -60, -1])
def test_a_disk_that_gives_back_other_bytes_is_noticed(
    place: int, shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In headers, chunks and the table at the end: a seal would vouch for them."""
    before, real_fsync = shard.read_bytes(), os.fsync

    def rot(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            at = place % len(before)
            os.pwrite(descriptor, bytes([before[at] ^ 1]), at)
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", rot)
    with pytest.raises(DamagedDataError, match=r"00000\.shard: the bytes read back differ .* and go on there"):
        write_shard(shard, SCHEMA, ATTRIBUTES, [_arrays()])
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("00000.shard", before)]


def test_zip_entries_are_stored_sorted_and_without_clock_or_owner(shard: Path) -> None:
    with zipfile.ZipFile(shard) as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
    assert len(entries) == 1 + 3 + 3 * 3
    for entry in entries:
        assert entry.compress_type == zipfile.ZIP_STORED
        assert entry.date_time == (1980, 1, 1, 0, 0, 0)
        assert stat.S_IMODE(entry.external_attr >> 16) == 0o644


def test_stock_zarr_reads_it(shard: Path) -> None:
    group = zarr.open_group(zarr.storage.ZipStore(shard, mode="r"), mode="r")
    assert dict(group.attrs) == ATTRIBUTES
    assert sorted(name for name, _ in group.arrays()) == ["columns", "ids", "values"]
    for name, expected in _arrays().items():
        assert np.array_equal(np.asarray(group[name][:]), expected)


def test_chunks_of_several_rows_are_cut_to_what_was_asked_for(tmp_path: Path) -> None:
    schema = tuple(replace(array, chunk_rows=2) for array in SCHEMA)
    path, arrays = tmp_path / "rows.shard", _arrays()
    write_shard(path, schema, ATTRIBUTES, [arrays])
    group = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")
    with ShardFile(path, schema, ATTRIBUTES) as file:
        for start in range(4):
            for stop in range(start, 4):
                for name, array in arrays.items():
                    assert np.array_equal(file.read(name, start, stop), array[start:stop])
                    assert np.array_equal(file.read(name, start, stop), group[name][start:stop])


def test_chunks_unpack_by_hand(shard: Path) -> None:
    """zip, crc32c, zstd and blosc, one after the other, without zarr."""
    chunks = dict(entries_of(shard))
    for name, unpack in {"ids": numcodecs.zstd.decompress, "values": numcodecs.blosc.decompress}.items():
        for row in range(3):
            chunk = chunks[f"{name}/c/{row}/0/0"]
            assert with_checksum(chunk[:-4]) == chunk
            found = np.frombuffer(bytes(unpack(chunk[:-4])), "<u2").reshape(4, 5)
            assert np.array_equal(found, _arrays()[name][row])


def test_every_damaged_bit_is_noticed_or_harmless(shard: Path) -> None:
    """Reading says so, or the data are right (a zip has fields nobody reads); the hash always moves."""
    whole, expected = shard.read_bytes(), _arrays()
    sealed = files.digest_file(shard)
    noticed = 0
    places = random.Random(0).sample(range(8 * len(whole)), 500)
    for place in places:
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        shard.write_bytes(data)
        assert files.digest_file(shard) != sealed
        try:
            assert _same(expected, _read_all(shard)), f"bit {place}"
        except DamagedDataError:
            noticed += 1
    assert noticed > len(places) / 2


@pytest.mark.parametrize("keep", [0, 1, 30, 500, -1])
def test_a_truncated_file_is_damage(shard: Path, keep: int) -> None:
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(DamagedDataError, match=r"00000\.shard.*sad-pipeline verify"):
        _read_all(shard)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_what_the_system_refuses_is_no_damage(shard: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    file = ShardFile(shard, SCHEMA, ATTRIBUTES)

    def refused(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZipFile", refused)
        with pytest.raises(StorageError, match=f"^{shard}: .*{os.strerror(number)}"):
            file.read(SCHEMA[0].name, 0, 1)
    file.read(SCHEMA[0].name, 0, 1)


def test_a_missing_file_is_damage(tmp_path: Path) -> None:
    with pytest.raises(DamagedDataError, match="is missing"):
        _read_all(tmp_path / "none.shard")


def _without(name: str) -> Callable[[Entries], Entries]:
    return lambda entries: [entry for entry in entries if entry[0] != name]


def _swapped(one: str, other: str) -> Callable[[Entries], Entries]:
    names = {one: other, other: one}
    return lambda entries: sorted((names.get(name, name), data) for name, data in entries)


def _replaced(name: str, data: bytes) -> Callable[[Entries], Entries]:
    return lambda entries: [(key, data if key == name else old) for key, old in entries]


CHUNK = "ids/c/1/0/0"
RIGHT_SIZE = bytes(numcodecs.zstd.compress(bytes(range(40)), 9))
HUGE = bytes(numcodecs.zstd.compress(bytes(2**24), 9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without(CHUNK), "missing entries: 'ids/c/1/0/0'"),
        (_without("values/zarr.json"), "missing entries: 'values/zarr.json'"),
        (lambda entries: [*entries, ("../../outside", b"")], r"unknown entries: '\.\./\.\./outside'"),
        (lambda entries: [*entries, ("ids/c/3/0/0", b"")], "unknown entries: 'ids/c/3/0/0'"),
        (lambda entries: [*entries, entries[0]], "entries stored twice: 'columns/c/0/0/0'"),
        (lambda entries: entries[::-1], "not in sorted order"),
        (_swapped("ids/c/0/0/0", "values/c/0/0/0"), "not packed by zstd"),
        (_replaced("zarr.json", b"{}"), "metadata 'zarr.json' is not that of this shard"),
        (_replaced(CHUNK, b""), "not packed by zstd"),
        (_replaced(CHUNK, bytes(10**6)), "has 1,000,000 bytes, at most"),
        (_replaced(CHUNK, with_checksum(HUGE)), "says it unpacks to 16777216 bytes, not 40"),
        (_replaced(CHUNK, RIGHT_SIZE + bytes(4)), "its crc32c is [0-9a-f]{8}, stored is 00000000"),
        (_replaced(CHUNK, with_checksum(RIGHT_SIZE[:-3])), r"00000\.shard: damaged at array 'ids'"),
        (_replaced("values/c/1/0/0", b"short"), "too short to be packed by blosc"),
    ],
)
def test_entries_that_should_not_be(shard: Path, change: Callable[[Entries], Entries], message: str) -> None:
    write_entries(shard, change(entries_of(shard)))
    with pytest.raises(DamagedDataError, match=message):
        _read_all(shard)


def test_a_codec_outside_the_list_is_never_run(shard: Path) -> None:
    entries = entries_of(shard)
    metadata = dict(entries)["ids/zarr.json"].replace(b"crc32c", b"pickle")
    write_entries(shard, _replaced("ids/zarr.json", metadata)(entries))
    with pytest.raises(DamagedDataError, match=r"metadata 'ids/zarr\.json' is not that of this shard"):
        _read_all(shard)


def test_an_entry_compressed_by_the_zip_is_refused(shard: Path) -> None:
    write_entries(shard, entries_of(shard), zipfile.ZIP_DEFLATED)
    with pytest.raises(DamagedDataError, match="entries must be stored"):
        _read_all(shard)


def test_a_shard_of_another_place_is_refused(shard: Path) -> None:
    file = ShardFile(shard, SCHEMA, ATTRIBUTES | {"first": 3})
    with pytest.raises(DamagedDataError, match=r"metadata 'zarr\.json'"):
        file.read("ids", 0, 1)


def test_a_block_of_another_type_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    arrays = dict(_arrays())
    arrays["ids"] = arrays["ids"].astype(np.int64)
    with pytest.raises(ValueError, match=r"array 'ids': expected uint16 \[\*, 4, 5\], found int64"):
        write_shard(tmp_path / "new.shard", SCHEMA, ATTRIBUTES, [arrays])
    assert list(tmp_path.iterdir()) == []


def test_an_open_file_survives_a_fork_and_closing(shard: Path) -> None:
    file = ShardFile(shard, SCHEMA, ATTRIBUTES)
    file.read("ids", 0, 3)

    def child() -> None:
        os._exit(0 if all(_same({"ids": _arrays()["ids"]}, {"ids": file.read("ids", 0, 3)}) for _ in range(20)) else 1)

    children = [multiprocessing.get_context("fork").Process(target=child) for _ in range(3)]
    for process in children:
        process.start()
    for _ in range(20):
        assert np.array_equal(file.read("values", 0, 3), _arrays()["values"])
    for process in children:
        process.join()
    assert [process.exitcode for process in children] == [0, 0, 0]
    file.close()
    assert np.array_equal(file.read("ids", 0, 3), _arrays()["ids"])
    file.close()


@pytest.mark.parametrize("size", [0, 1, 200, 255, 256, 257, 65_791, 65_792, 70_000, 2**17])
def test_packed_size_is_what_comes_out(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 4, size, dtype=np.uint8).tobytes()
    assert packed_size("zstd", bytes(numcodecs.zstd.compress(data, 9))[:32]) == size
    packed = numcodecs.blosc.compress(data or b"\0", b"zstd", 5, numcodecs.blosc.BITSHUFFLE)
    assert packed_size("bitshuffle", bytes(packed)) == max(1, size)


@pytest.mark.parametrize("packed_bytes", [0, 16, 2**31 - 1, 2**32 - 1])
def test_a_chunk_that_says_another_length_is_refused_before_it_is_unpacked(packed_bytes: int) -> None:
    """The unpacker believes it, and would read memory that is not the chunk's."""
    packed = bytearray(numcodecs.blosc.compress(bytes(range(200)), b"zstd", 5, numcodecs.blosc.BITSHUFFLE))
    packed[12:16] = packed_bytes.to_bytes(4, "little")
    with pytest.raises(ValueError, match=f"says that it has {packed_bytes:,} bytes, and has {len(packed):,}"):
        packed_size("bitshuffle", bytes(packed))


@pytest.mark.parametrize(
    "start", [b"", b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd\x00\x58", b"\x28\xb5\x2f\xfd\x23\x01\x02"]
)
def test_a_zstd_frame_that_does_not_say_its_size_is_refused(start: bytes) -> None:
    with pytest.raises(ValueError, match=r"not packed by zstd|does not say its size"):
        packed_size("zstd", start)
