"""sequences.shard: the packed sequences of a cache, in the same kind of file as the records.

input_ids  uint32 [S, T+1]
flags      uint8 [S, T+1]   bit 0: the label at t+1 is scored (never in the last column); bit 1: a document begins
columns    int64 [S, 2]     split, num_bytes
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline import files
from pipeline.cache.schema import Arrays, ArraySchema
from pipeline.cache.shard import ShardFile, write_shard
from pipeline.data.sequences import Sequences
from pipeline.errors import DamagedDataError

_CHUNK_POSITIONS = 2**18
_ENTRY_BYTES = 1024  # of names and metadata
_SCORED, _BEGINS = 1, 2
_ATTRIBUTES = {"content": "sequences", "format": 1}


def write_sequences(path: Path, sequences: Sequences) -> files.FileDigest:
    """Write all sequences; the digest's xxh3-128 belongs into the plan."""
    padded_mask = np.pad(sequences.loss_mask, ((0, 0), (0, 1)))
    arrays: Arrays = {
        "input_ids": sequences.input_ids,
        "flags": (padded_mask * _SCORED + sequences.document_starts * _BEGINS).astype(np.uint8),
        "columns": np.stack([sequences.split, sequences.num_bytes], axis=1).astype(np.int64),
    }
    return write_shard(path, _schema(sequences.num_sequences, sequences.sequence_length), _ATTRIBUTES, [arrays])


def most_bytes(sequences: Sequences) -> int:
    """What the file of these sequences takes at most: as it is before it is packed."""
    schema = _schema(sequences.num_sequences, sequences.sequence_length)
    return sum(array.num_chunks * array.chunk_bytes for array in schema)


def read_sequences(path: Path, num_sequences: int, sequence_length: int, digest: str) -> Sequences:
    """Read all sequences of a file whose size and xxh3-128 the plan names; DamagedDataError where it is another."""
    if not path.is_file():
        raise DamagedDataError(f"{path}: is missing. {_FIX}")
    size_bytes, limit = path.stat().st_size, _largest_file(_schema(num_sequences, sequence_length))
    if size_bytes > limit:
        raise DamagedDataError(f"{path}: has {size_bytes:,} bytes, at most {limit:,} were expected. {_FIX}")
    found = files.digest_file(path).xxh3_128
    if found != digest:
        raise DamagedDataError(f"{path}: has xxh3-128 {found}, the plan names {digest}. {_FIX}")
    with ShardFile(path, _schema(num_sequences, sequence_length), _ATTRIBUTES) as file:
        flags = file.read("flags", 0, num_sequences)
        columns = file.read("columns", 0, num_sequences)
        return Sequences(
            input_ids=file.read("input_ids", 0, num_sequences),
            loss_mask=(flags[:, :-1] & _SCORED).astype(bool),
            document_starts=(flags & _BEGINS).astype(bool),
            split=columns[:, 0].astype(np.uint8),
            num_bytes=columns[:, 1],
        )


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
