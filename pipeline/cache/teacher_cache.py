"""Reading a cache: sequences and what the teacher said of them, from any number of folders."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.codec import codec_of
from pipeline.cache.plan import Plan, ShardSpan, in_turn
from pipeline.cache.records import Records
from pipeline.cache.roots import SealedShard, find_plan, find_sealed, find_sequences, require_roots
from pipeline.cache.schema import ArraySchema, Facts
from pipeline.cache.seal import REPAIR
from pipeline.cache.sequence_file import StoredSequences
from pipeline.cache.shard import ShardFile
from pipeline.cache.statistics import Statistics, merge
from pipeline.cache.writer import shard_attributes
from pipeline.data.sequences import Sequences
from pipeline.errors import DamagedDataError, IncompleteInputError
from pipeline.fork_lock import ForkLock

MAX_OPEN_SHARDS = 16
_FACT_ROWS = 64  # chunks unpacked at once: some 6 MB


@dataclass(frozen=True, slots=True, eq=False)
class CachedSequence:
    """One sequence with its records."""

    index: int
    input_ids: NDArray[np.uint32]
    """[T+1]"""
    loss_mask_T: NDArray[np.bool_]
    document_starts: NDArray[np.bool_]
    """[T+1]"""
    records: Records
    split: int
    num_bytes: int


class TeacherCache:
    """The union of the sealed shards of one plan, with every chunk that is read checked.

    Any number of threads and processes may use it, also forked ones, and others by way of pickle.
    """

    def __init__(self, plan: Plan, folders: Sequence[Path], shards: dict[int, SealedShard]) -> None:
        """Use `open`. `folders` hold the plan; `shards` are the sealed ones, by index."""
        self.plan = plan
        self.folders = tuple(folders)
        self.shards = shards
        self._open: OrderedDict[int, ShardFile] = OrderedDict()
        self._lock = ForkLock()

    @classmethod
    def open(cls, path: str | Path, *more_roots: str | Path) -> Self:
        """Open the cache below `path` (a run directory, a cache, any folder above) together with parts in other roots.

        Checks the plan against its hash and every seal against the plan and the size of its shard.
        """
        roots = [Path(root) for root in (path, *more_roots)]
        require_roots(roots[1:])
        plan, folders = find_plan(roots)
        shards = {index: copies[0] for index, copies in find_sealed(plan, roots).items()}
        for shard in shards.values():
            shard.check_size()
        return cls(plan, folders, shards)

    def __len__(self) -> int:
        return self.plan.num_sequences

    @cached_property
    def sequences(self) -> StoredSequences:
        """All packed sequences, by number."""
        return StoredSequences.of(self.plan, find_sequences(self.plan, self.folders))

    @property
    def sealed(self) -> list[ShardSpan]:
        """Shards that can be read."""
        return [span for span in self.plan.shards if span.index in self.shards]

    @property
    def missing(self) -> list[ShardSpan]:
        """Shards that are not sealed in any root, in the order in which they are made."""
        return in_turn(span for span in self.plan.shards if span.index not in self.shards)

    @property
    def complete(self) -> bool:
        """Whether every shard is sealed."""
        return not self.missing

    @property
    def statistics(self) -> Statistics:
        """Statistics of all sealed shards together, from their seals; see pipeline/cache/statistics.py."""
        try:
            return merge([shard.seal.statistics for shard in self.shards.values()])
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise DamagedDataError(f"{self.folders[0]}: its seals hold no statistics: {error!r}. {REPAIR}") from error

    def __getitem__(self, index: int) -> CachedSequence:
        index = range(len(self))[index]
        sequences, records = self.read(np.array([index]))
        return CachedSequence(
            index=index,
            input_ids=sequences.input_ids[0],
            loss_mask_T=sequences.loss_mask[0],
            document_starts=sequences.document_starts[0],
            records=records,
            split=int(sequences.split[0]),
            num_bytes=int(sequences.num_bytes[0]),
        )

    def read(self, indices: NDArray[np.integer[Any]]) -> tuple[Sequences, Records]:
        """n sequences in the order asked for, with their n·T records; IncompleteInputError where one is not sealed."""
        wanted = np.asarray(indices, dtype=np.int64)
        return self.sequences.select(wanted), self._records(wanted)

    def facts(self, span: ShardSpan) -> Facts:
        """Label log p and entropy of every position of a sealed shard, [count, T] each; zeros where none is scored.

        A tenth of the work of `read`: of a record only the columns are unpacked, and of those two fields decoded.
        """
        codec, length = codec_of(self.plan), self.plan.sequence_length
        schema, parts = codec.schema(span.count), []
        num_rows = next(array.shape[0] for array in schema if array.name == "columns")
        for start in range(0, num_rows, _FACT_ROWS):
            with self._lock:
                file = self._shard_file(span, schema)
                parts.append(codec.facts(file.read("columns", start, min(start + _FACT_ROWS, num_rows))))
        label_ST, entropy_ST = (
            np.concatenate(part)[: span.count * length].reshape(span.count, length) for part in zip(*parts, strict=True)
        )
        return label_ST, entropy_ST

    def close(self) -> None:
        """Close all files; a later read opens them again."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()
        if "sequences" in self.__dict__:
            self.sequences.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __copy__(self) -> Self:
        """For another thread: files of its own, and the sequences, which are only read, in common."""
        copied = type(self)(self.plan, self.folders, self.shards)
        copied.__dict__["sequences"] = self.sequences
        return copied

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_open": OrderedDict()}
        state.pop("sequences", None)  # opened again where they are needed
        return state

    def _runs(self, wanted: NDArray[np.int64]) -> list[tuple[ShardSpan, int, int]]:
        """Stretches start..stop of consecutive sequences within one chunk: each is one read an array, of one size."""
        size = codec_of(self.plan).chunk_sequences
        runs: list[tuple[ShardSpan, int, int]] = []
        for index in wanted.tolist():
            if runs and index == runs[-1][2] < runs[-1][0].stop and (index - runs[-1][0].first) % size:
                span, start, _ = runs.pop()
            else:
                span, start = self.plan.span_of(index), index
            runs.append((span, start, index + 1))
        return runs

    def _records(self, wanted: NDArray[np.int64]) -> Records:
        """Their records, each chunk unpacked to where it is wanted. A run that is not all of its chunk is copied."""
        codec, length, place = codec_of(self.plan), self.plan.sequence_length, 0
        records = Records.empty(self.plan.layout, 0)
        for span, start, stop in self._runs(wanted):
            schema, (chunk, offset) = codec.schema(span.count), divmod(start - span.first, codec.chunk_sequences)
            with self._lock:
                file = self._shard_file(span, schema)
                arrays = {array.name: file.read(array.name, chunk, chunk + 1) for array in schema}
            if not place:  # not before a chunk was read: that is as large as the plan says, and so the plan is believed
                records = Records.empty(self.plan.layout, len(wanted) * length)
            count = stop - start
            run = records.rows(slice(place, place + count * length))
            try:
                if count == codec.chunk_sequences:
                    codec.decode(arrays, out=run)
                else:
                    run.put(codec.decode(arrays).rows(slice(offset * length, (offset + count) * length)))
            except ValueError as error:
                raise DamagedDataError(f"{file.path}: sequences {start} to {stop}: {error}. {REPAIR}") from error
            place += count * length
        return records

    def _shard_file(self, span: ShardSpan, schema: tuple[ArraySchema, ...]) -> ShardFile:
        if span.index not in self.shards:
            raise IncompleteInputError(
                f"{self.folders[0]}: sequences {span.first} to {span.stop} are not in any sealed shard "
                f"({len(self.sealed)} of {len(self.plan.shards)} are). Run `sad-pipeline cache-teacher` to its end"
            )
        if span.index not in self._open:
            path = self.shards[span.index].path
            self._open[span.index] = ShardFile(path, schema, shard_attributes(self.plan, span))
        self._open.move_to_end(span.index)
        while len(self._open) > MAX_OPEN_SHARDS:
            self._open.popitem(last=False)[1].close()
        return self._open[span.index]
