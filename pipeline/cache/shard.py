"""A shard file: a zarr v3 group in one zip, written the same byte for byte every time. The only door to zarr.

Chunks are packed in memory with a crc32c each; the zip stores them as they are, keys sorted, with one fixed time and
mode. The metadata is ours, as canonical JSON, so a reader compares it with what it must be instead of believing it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs.blosc
import numcodecs.zstd
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.buffer import cpu
from zarr.storage import MemoryStore

from pipeline import files
from pipeline.cache.packed_size import packed_size
from pipeline.cache.schema import ZSTD_LEVELS, Arrays, ArraySchema
from pipeline.cache.stored_zip import write_zip
from pipeline.cache.unread import unread_errors
from pipeline.errors import DamagedDataError, StorageError

Attributes = dict[str, Any]
_METADATA = "zarr.json"
_PACKED_EXTRA_BYTES = 1024
MAX_CHUNK_BYTES = 2**31
"""Before it is packed; blosc packs no more at once"""
_ENTRY_HEADER, _ENTRY_SIGNATURE = struct.Struct("<4s22x2H"), b"PK\3\4"
"""before each entry of a zip: a signature, what the table at its end says too, and the sizes of name and extra field"""
_CHECKSUM_BYTES = 4  # crc32c, little-endian, at the end of a chunk
_WRITING = {"array.write_empty_chunks": True}


def _packer(array: ArraySchema) -> dict[str, Any]:
    """The zarr codec of an array's chunks."""
    if array.packing in ZSTD_LEVELS:
        return {"name": "zstd", "configuration": {"level": ZSTD_LEVELS[array.packing], "checksum": False}}
    shuffle = "bitshuffle" if array.packing == "bitshuffle" else "noshuffle"
    options = {"shuffle": shuffle, "typesize": array.item_bytes, "blocksize": array.block_bytes}
    return {"name": "blosc", "configuration": {"cname": "zstd", "clevel": 5, **options}}


def write_shard(
    path: Path, schema: tuple[ArraySchema, ...], attributes: Attributes, blocks: Iterable[Arrays]
) -> files.FileDigest:
    """Write arrays to `path`, whole or not at all, and return the digest of the bytes on disk.

    `blocks` are consecutive rows of every array; only the packed chunks of a block stay in memory. All blocks but the
    last hold whole chunks. DamagedDataError where the disk does not give back what was packed.
    """
    packed = _pack(schema, attributes, blocks)
    return files.write_file(path, lambda file: write_zip(file, _in_order(packed)))


def packed_bytes(schema: tuple[ArraySchema, ...], block: Arrays) -> int:
    """How many bytes of a shard these rows take, without writing any."""
    packed = _pack(schema, {}, [block])
    return sum(len(data) for key, data in packed.items() if not key.endswith(_METADATA))


def _pack(schema: tuple[ArraySchema, ...], attributes: Attributes, blocks: Iterable[Arrays]) -> dict[str, cpu.Buffer]:
    """Key -> bytes of every entry of a shard."""
    packed = {key: cpu.Buffer.from_bytes(data) for key, data in _metadata(schema, attributes).items()}
    with zarr.config.set(_WRITING), _one_thread():
        store = MemoryStore(packed)
        arrays = {array.name: zarr.open_array(store, path=array.name, mode="r+", zarr_format=3) for array in schema}
        done = 0
        for block in blocks:
            count = len(block[schema[0].name])
            for array in schema:
                arrays[array.name][done : done + count] = array.check_rows(block[array.name])
            done += count
    assert all(done == array.shape[0] for array in schema), (done, schema)
    assert packed.keys() == _expected_keys(schema)
    return packed


def _in_order(packed: dict[str, cpu.Buffer]) -> Iterator[tuple[str, bytes]]:
    yield from ((key, packed[key].to_bytes()) for key in sorted(packed))


class ShardFile:
    """A shard file open for reading: checked when it is first read, then chunk by chunk.

    Safe to hold across a fork: a child opens the file anew. What is damaged is a DamagedDataError that names the
    file and the place in it; what the system refuses to read, or too many open files, a StorageError.
    """

    def __init__(self, path: Path, schema: tuple[ArraySchema, ...], attributes: Attributes) -> None:
        self.path = path
        self._schema = {array.name: array for array in schema}
        self._metadata = _metadata(schema, attributes)
        self._archive: zipfile.ZipFile | None = None
        self._process = 0

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows start..stop of one array."""
        schema = self._schema[name]
        assert 0 <= start <= stop <= schema.shape[0], (name, start, stop)
        with self._damage(f"array {name!r}, rows {start} to {stop}"):
            archive = self._open()
            first, last = start // schema.chunk_rows, -(-stop // schema.chunk_rows)
            chunks = np.empty((last - first, *schema.chunk_shape), np.dtype(schema.dtype).newbyteorder("<"))
            for number, out in enumerate(chunks, first):
                key = _chunk_key(schema, number)
                _unpack(schema, key, _stored(archive, key), out)
            rows = chunks.reshape(-1, *schema.shape[1:])[start - first * schema.chunk_rows :][: stop - start]
            return schema.check_rows(rows.astype(schema.dtype, copy=False))

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        # A handle from before a fork shares its place in the file with the parent: dropped, never used.
        if self._archive is not None and self._process == os.getpid():
            self._archive.close()
        self._archive = None

    def __enter__(self) -> ShardFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> zipfile.ZipFile:
        if self._archive is not None and self._process == os.getpid():
            return self._archive
        archive = zipfile.ZipFile(self.path)
        try:
            self._check_entries(archive)
        except BaseException:
            archive.close()
            raise
        self._archive, self._process = archive, os.getpid()
        return archive

    def _check_entries(self, archive: zipfile.ZipFile) -> None:
        """Exactly the entries that must be there, none compressed, none larger than its chunk allows."""
        names, schema = archive.namelist(), tuple(self._schema.values())
        if len(names) < sum(
            array.num_chunks for array in schema
        ):  # as many names as a plan claims may not fit in memory
            raise ValueError(f"{len(names):,} entries, and there must be more")
        for array in schema:
            if array.chunk_bytes > MAX_CHUNK_BYTES:
                raise ValueError(f"array {array.name!r}: a chunk of {array.chunk_bytes:,} bytes is more than any has")
        expected = sorted(_expected_keys(schema))
        if names != expected:
            raise ValueError(_entry_difference(names, expected))
        for entry in archive.infolist():
            limit = self._entry_limit(entry.filename)
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise ValueError(f"entry {entry.filename!r} is compressed by the zip; entries must be stored")
            if entry.file_size > limit:
                raise ValueError(f"entry {entry.filename!r} has {entry.file_size:,} bytes, at most {limit:,} fit")
        for name, expected_bytes in self._metadata.items():
            if archive.read(name) != expected_bytes:
                raise ValueError(f"metadata {name!r} is not that of this shard in this cache")

    def _entry_limit(self, key: str) -> int:
        if key in self._metadata:
            return len(self._metadata[key])
        chunk_bytes = self._schema[key.split("/")[0]].chunk_bytes
        return chunk_bytes + chunk_bytes // 64 + _PACKED_EXTRA_BYTES

    @contextlib.contextmanager
    def _damage(self, place: str) -> Iterator[None]:
        try:
            with unread_errors(self.path, *_OF_OFFSETS), _system_errors():
                yield
        except StorageError:
            self.close()
            raise
        except FileNotFoundError as error:
            self.close()
            raise DamagedDataError(f"{self.path}: is missing. {_FIX}") from error
        except _DAMAGE as error:
            self.close()
            raise DamagedDataError(f"{self.path}: damaged at {place}: {error}. {_FIX}") from error


# Of places that a damaged table names, and no file has.
_OF_OFFSETS = (errno.EINVAL, errno.EOVERFLOW)
# Whatever zip, unpackers, arrays and the disk raise where bytes are not those that were written.
_DAMAGE = (ValueError, RuntimeError, KeyError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile)
_FIX = "Run `sad-pipeline verify` to find all damage and `sad-pipeline repair` to have it recomputed"


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """What the system refused, also where zipfile calls that a file which is no zip."""
    try:
        yield
    except zipfile.BadZipFile as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _stored(archive: zipfile.ZipFile, key: str) -> bytes:
    """Bytes of an entry that holds a chunk, as they lie in the file; ValueError where another one lies there.

    Without `archive.read`, which checks a sum of its own over what the chunk's crc32c is checked over next.
    """
    entry, file = archive.getinfo(key), archive.fp
    assert file is not None
    file.seek(entry.header_offset)
    name = key.encode()
    header = file.read(_ENTRY_HEADER.size + len(name))
    signature, name_bytes, extra_bytes = _ENTRY_HEADER.unpack(header[: _ENTRY_HEADER.size].ljust(_ENTRY_HEADER.size))
    if (signature, name_bytes, header[_ENTRY_HEADER.size :]) != (_ENTRY_SIGNATURE, len(name), name):
        raise ValueError(f"entry {key!r} does not begin where the zip says")
    file.seek(extra_bytes, os.SEEK_CUR)
    content = file.read(entry.file_size)
    if len(content) < entry.file_size:
        raise ValueError(f"entry {key!r} has {entry.file_size:,} bytes, and {len(content):,} are left")
    return content


def _unpack(array: ArraySchema, key: str, packed: bytes, out: NDArray[Any]) -> None:
    """Bytes of one chunk, as they lie in the zip, to numbers; ValueError where they are not what was written.

    What zarr's codecs do, in the same order and by the same libraries, without a turn through an event loop for each:
    that took longer than the unpacking itself. The size is checked before anything is unpacked.
    """
    content = packed[:-_CHECKSUM_BYTES]
    size = packed_size(array.packing, content)
    if size != array.chunk_bytes:
        raise ValueError(f"chunk {key!r} says it unpacks to {size} bytes, not {array.chunk_bytes}")
    stored, found = int.from_bytes(packed[-_CHECKSUM_BYTES:], "little"), google_crc32c.value(content)
    if stored != found:
        raise ValueError(f"chunk {key!r}: its crc32c is {found:08x}, stored is {stored:08x}")
    decompress = numcodecs.zstd.decompress if array.packing in ZSTD_LEVELS else numcodecs.blosc.decompress
    decompress(content, out)


def _metadata(schema: tuple[ArraySchema, ...], attributes: Attributes) -> dict[str, bytes]:
    """Key -> bytes of every zarr.json of a shard."""
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    documents = {_METADATA: group} | {f"{array.name}/{_METADATA}": _array_metadata(array) for array in schema}
    return {key: files.canonical_json(document) for key, document in documents.items()}


def _array_metadata(array: ArraySchema) -> dict[str, Any]:
    endian = {} if array.item_bytes == 1 else {"configuration": {"endian": "little"}}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": array.shape,
        "data_type": array.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": array.chunk_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes", **endian}, _packer(array), {"name": "crc32c"}],
        "attributes": {},
        "storage_transformers": [],
    }


def _chunk_key(array: ArraySchema, number: int) -> str:
    """Where a chunk lies, counted along the first axis."""
    return f"{array.name}/c/{number}" + "/0" * (len(array.shape) - 1)


def _expected_keys(schema: tuple[ArraySchema, ...]) -> set[str]:
    chunks = {_chunk_key(array, number) for array in schema for number in range(array.num_chunks)}
    return chunks | {f"{array.name}/{_METADATA}" for array in schema} | {_METADATA}


def _entry_difference(found: list[str], expected: list[str]) -> str:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    twice = sorted(name for name, count in Counter(found).items() if count > 1)
    parts = [
        f"{what}: {', '.join(map(repr, names[:3]))}{' ...' if len(names) > 3 else ''}"
        for what, names in (("missing entries", missing), ("unknown entries", extra), ("entries stored twice", twice))
        if names
    ]
    return "; ".join(parts) or "entries are not in sorted order"


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Blosc on one thread: with several, blocks land in the chunk in the order their threads finish."""
    before = numcodecs.blosc.use_threads
    numcodecs.blosc.use_threads = False
    try:
        yield
    finally:
        numcodecs.blosc.use_threads = before
