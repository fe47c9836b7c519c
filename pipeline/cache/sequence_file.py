"""sequences.shard: the packed sequences of a cache, in the same kind of file as the records.

input_ids  uint32 [S, T+1]
flags      uint8 [S, T+1]   bit 0: the label at t+1 is scored (never in the last column); bit 1: a document begins
columns    int64 [S, 2]     split, num_bytes
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline import files
from pipeline.cache.plan import Plan
from pipeline.cache.schema import Arrays, ArraySchema
from pipeline.cache.shard import ShardFile, write_shard
from pipeline.cache.unread import size_on_disk, unread_errors
from pipeline.data.sequences import Sequences
from pipeline.errors import DamagedDataError
from pipeline.fork_lock import ForkLock

_CHUNK_POSITIONS = 2**18
_KEPT_BYTES = 64 * 2**20  # of unpacked chunks: 13 million positions, more than a training window holds by default
_POSITION_BYTES = 5
_ENTRY_BYTES = 1024  # of names and metadata
_SCORED, _BEGINS = 1, 2
_ATTRIBUTES = {"content": "sequences", "format": 1}


def write_sequences(path: Path, sequences: Sequences) -> files.FileDigest:
    """Write all sequences; the digest's xxh3-128 belongs into the plan."""
    flags = np.pad(sequences.loss_mask, ((0, 0), (0, 1))).view(np.uint8)  # _SCORED, a byte an id and no more
    flags |= sequences.document_starts.view(np.uint8) * np.uint8(_BEGINS)
    arrays: Arrays = {
        "input_ids": sequences.input_ids,
        "flags": flags,
        "columns": np.stack([sequences.split, sequences.num_bytes], axis=1).astype(np.int64),
    }
    return write_shard(path, _schema(sequences.num_sequences, sequences.sequence_length), _ATTRIBUTES, [arrays])


def most_bytes(sequences: Sequences) -> int:
    """What the file of these sequences takes at most: as it is before it is packed."""
    schema = _schema(sequences.num_sequences, sequences.sequence_length)
    return sum(array.num_chunks * array.chunk_bytes for array in schema)


class StoredSequences:
    """The sequences of such a file, by number: a SequenceSource that reads what is asked for, chunk by chunk.

    In memory are 17 bytes a sequence, and of the chunks that were read the newest, _KEPT_BYTES unpacked; what is asked
    for beyond those is unpacked again. Any number of threads may use it, and forked processes.
    """

    def __init__(self, path: Path, num_sequences: int, sequence_length: int, digest: str) -> None:
        """DamagedDataError where size or xxh3-128 are not what the plan names; all of the file is hashed.

        StorageError where it cannot be read now.
        """
        self.path, self.num_sequences, self.sequence_length = path, num_sequences, sequence_length
        schema = _schema(num_sequences, sequence_length)
        _check_file(path, schema, digest)
        self._chunk_rows = schema[0].chunk_rows
        self._num_kept = max(1, _KEPT_BYTES // (self._chunk_rows * (sequence_length + 1) * _POSITION_BYTES))
        self._kept: OrderedDict[int, tuple[NDArray[np.uint32], NDArray[np.uint8]]] = OrderedDict()
        self._lock, self._file = ForkLock(), ShardFile(path, schema, _ATTRIBUTES)
        columns = self._file.read("columns", 0, num_sequences)
        self.split, self.num_bytes = columns[:, 0].astype(np.uint8), columns[:, 1].copy()
        self.scored_counts = np.concatenate([self._count_scored(start) for start in self._chunk_starts])

    @classmethod
    def of(cls, plan: Plan, path: Path) -> Self:
        """The sequences of a plan, from its sequences.shard at `path`."""
        return cls(path, plan.num_sequences, plan.sequence_length, plan.sequences_digest)

    def select(self, rows: slice | NDArray[np.integer]) -> Sequences:
        """The chosen rows, in the order given; DamagedDataError where a chunk is not what was written."""
        wanted_n = np.arange(*rows.indices(self.num_sequences)) if isinstance(rows, slice) else np.asarray(rows)
        if wanted_n.size and not 0 <= wanted_n.min() <= wanted_n.max() < self.num_sequences:
            raise IndexError(f"{self.path}: has sequences 0 to {self.num_sequences - 1}, asked for {wanted_n}")
        shape = len(wanted_n), self.sequence_length + 1
        input_ids, flags = np.empty(shape, np.uint32), np.empty(shape, np.uint8)
        chunk_n = wanted_n // self._chunk_rows
        for chunk in np.unique(chunk_n).tolist():
            chunk_ids, chunk_flags = self._chunk(chunk)
            within_n = wanted_n[chunk_n == chunk] - chunk * self._chunk_rows
            input_ids[chunk_n == chunk], flags[chunk_n == chunk] = chunk_ids[within_n], chunk_flags[within_n]
        return Sequences(
            input_ids=input_ids,
            loss_mask=(flags[:, :-1] & _SCORED).astype(bool),
            document_starts=(flags & _BEGINS).astype(bool),
            split=self.split[wanted_n],
            num_bytes=self.num_bytes[wanted_n],
        )

    def check_chunks(self) -> None:
        """Unpack every chunk once; DamagedDataError where one is not what was written."""
        for start in self._chunk_starts:
            self.select(slice(start, start + 1))

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        with self._lock:
            self._file.close()

    @property
    def _chunk_starts(self) -> range:
        """The first sequence of each chunk."""
        return range(0, self.num_sequences, self._chunk_rows)

    def _chunk(self, number: int) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """Ids and flags of all sequences of a chunk."""
        with self._lock:
            if number not in self._kept:
                start = number * self._chunk_rows
                stop = min(start + self._chunk_rows, self.num_sequences)
                self._kept[number] = self._file.read("input_ids", start, stop), self._file.read("flags", start, stop)
            self._kept.move_to_end(number)
            while len(self._kept) > self._num_kept:
                self._kept.popitem(last=False)
            return self._kept[number]

    def _count_scored(self, start: int) -> NDArray[np.int64]:
        flags = self._file.read("flags", start, min(start + self._chunk_rows, self.num_sequences))
        return np.asarray((flags[:, :-1] & _SCORED).sum(axis=1), np.int64)


def _check_file(path: Path, schema: tuple[ArraySchema, ...], digest: str) -> None:
    size_bytes, limit = size_on_disk(path), _largest_file(schema)
    if size_bytes is None:
        raise DamagedDataError(f"{path}: is missing. {_FIX}")
    if size_bytes > limit:
        raise DamagedDataError(f"{path}: has {size_bytes:,} bytes, at most {limit:,} were expected. {_FIX}")
    with unread_errors(path):
        found = files.digest_file(path).xxh3_128
    if found != digest:
        raise DamagedDataError(f"{path}: has xxh3-128 {found}, the plan names {digest}. {_FIX}")


_FIX = "Run `sad-pipeline cache-teacher` again, which packs the same sequences from the same data"


def _largest_file(schema: tuple[ArraySchema, ...]) -> int:
    """More than a file of these arrays has, whatever is in them: what is larger is not even hashed."""
    chunks = sum(
        array.num_chunks * (array.chunk_bytes + array.chunk_bytes // 64 + 2 * _ENTRY_BYTES) for array in schema
    )
    return chunks + 10 * _ENTRY_BYTES


def ids_schema(num_sequences: int, sequence_length: int) -> ArraySchema:
    """How the ids are stored, which are nearly all of the file."""
    shape = (num_sequences, sequence_length + 1)
    return ArraySchema("input_ids", "uint32", shape, "bitshuffle", _chunk_rows(num_sequences, sequence_length))


def _schema(num_sequences: int, sequence_length: int) -> tuple[ArraySchema, ...]:
    rows = _chunk_rows(num_sequences, sequence_length)
    return (
        ids_schema(num_sequences, sequence_length),
        ArraySchema("flags", "uint8", (num_sequences, sequence_length + 1), "zstd", rows),
        ArraySchema("columns", "int64", (num_sequences, 2), "bitshuffle", rows),
    )


def _chunk_rows(num_sequences: int, sequence_length: int) -> int:
    return max(1, min(num_sequences, _CHUNK_POSITIONS // (sequence_length + 1)))
