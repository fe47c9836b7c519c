"""Writing a cache, shard by shard: first the shard, then its seal, each whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import files
from pipeline.cache.codec import MaskedRecords, codec_of, make_codec, whole_chunks
from pipeline.cache.plan import FORMAT_VERSION, SHARDS_FOLDER, Plan, ShardSpan
from pipeline.cache.records import Records
from pipeline.cache.roots import find_files
from pipeline.cache.schema import Arrays
from pipeline.cache.seal import SEAL_SUFFIX, Seal
from pipeline.cache.shard import packed_bytes, write_shard
from pipeline.cache.statistics import StatisticsSum
from pipeline.data.sequences import SequenceSource


class CacheWriter:
    """Adds sealed shards to the cache folder of a plan; what is sealed there already stays as it is."""

    def __init__(self, folder: Path, plan: Plan, sequences: SequenceSource, environment: dict[str, str]) -> None:
        """`environment` (versions, device class) goes into every seal. IdentityError where the folder holds seals
        of another plan, which must not be written over."""
        self._folder = folder / SHARDS_FOLDER
        self._plan = plan
        self._codec = codec_of(plan)
        self._plan_hash = plan.hash
        self._sequences = sequences
        self._environment = environment
        files.make_folder(self._folder)
        for path in find_files(self._folder, f"*{SEAL_SUFFIX}"):
            Seal.load(path).check_against(plan, path)

    def remove_unfinished(self) -> None:
        """Remove what crashes left: temporary files, and the shards whose seal never came. They want the room.

        Only for who knows that nobody else writes here, as a command does that holds its run: of another's shard the
        seal may be about to come, and would stand alone.
        """
        for folder in (self._folder.parent, self._folder):
            files.sweep_temporary(folder)
        for span in self._plan.shards:
            if (self._folder / span.shard_name).is_file() and not (self._folder / span.seal_name).exists():
                files.remove_file(self._folder / span.shard_name)

    def write(self, span: ShardSpan, records: Records | Iterable[Records]) -> Seal:
        """Encode, write and seal one shard.

        `records` holds the positions of all its sequences, in order, at once or in parts of whole sequences; of parts
        only the packed bytes are kept. The bytes on disk do not depend on how the parts were cut.
        """
        plan, statistics = self._plan, StatisticsSum()
        parts = self._whole_sequences(span, [records] if isinstance(records, Records) else records)
        path = self._folder / span.shard_name
        digest = write_shard(
            path,
            self._codec.schema(span.count),
            shard_attributes(plan, span),
            self._encode(parts, statistics),
        )
        seal = Seal(
            shard=span.shard_name,
            size_bytes=digest.size_bytes,
            xxh3_128=digest.xxh3_128,
            first=span.first,
            count=span.count,
            num_positions=span.count * plan.sequence_length,
            num_scored=statistics.num_scored,
            statistics=statistics.result()
            | {"bytes_per_scored_position": digest.size_bytes / max(1, statistics.num_scored)},
            plan_hash=self._plan_hash,
            environment=self._environment,
        )
        seal.save(self._folder / span.seal_name)
        return seal

    def _encode(self, parts: Iterable[MaskedRecords], statistics: StatisticsSum) -> Iterator[Arrays]:
        for records, mask_ST in whole_chunks(parts, self._codec):
            statistics.add(records, mask_ST)
            yield self._codec.encode(records, mask_ST)

    def _whole_sequences(self, span: ShardSpan, parts: Iterable[Records]) -> Iterator[MaskedRecords]:
        """Each part with its sequences' loss mask."""
        first = span.first
        for part in parts:
            count, rest = divmod(len(part), self._plan.sequence_length)
            if part.layout != self._plan.layout or rest or first + count > span.stop:
                raise ValueError(
                    f"shard {span.index}: expected records of whole sequences {first} to {span.stop} in the plan's "
                    f"layout, found {len(part)} positions of {part.layout}"
                )
            yield part, self._sequences.select(slice(first, first + count)).loss_mask
            first += count
        if first != span.stop:
            raise ValueError(f"shard {span.index}: records end at sequence {first}, expected {span.stop}")


def bytes_per_position(records: Records, loss_mask_ST: NDArray[np.bool_]) -> float:
    """What these records of whole sequences take on disk, a position."""
    codec = make_codec(records.layout, loss_mask_ST.shape[1], FORMAT_VERSION)
    return packed_bytes(codec.schema(len(loss_mask_ST)), codec.encode(records, loss_mask_ST)) / len(records)


def shard_attributes(plan: Plan, span: ShardSpan) -> dict[str, Any]:
    """What a shard says of itself, so that two files that changed places are noticed."""
    return {"content": "records", "format": plan.format, "plan_hash": plan.hash, "first": span.first}
