"""The plan: what a cache is made from, and which sequences go into which shard. Fixed before the teacher runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline import files
from pipeline.cache.layout import RecordLayout
from pipeline.cache.told import PLAN_FIX, Told
from pipeline.cache.unread import size_on_disk, unread_errors
from pipeline.config import differences
from pipeline.data.sequences import TRAIN, VALIDATION
from pipeline.errors import DamagedDataError, IdentityError, IncompleteInputError

FORMAT_VERSION = 2
_READABLE = (1, 2)
PLAN_NAME = "plan.json"
SEQUENCES_NAME = "sequences.shard"
SHARDS_FOLDER = "shards"
TOKENIZER_FOLDER = "tokenizer"
DATA_REPORT_NAME = "data_report.json"
_SPLIT_WORDS = {TRAIN: "train", VALIDATION: "validation"}
_FIELDS = {
    "format",
    "identity",
    "layout",
    "capture",
    "sequence_length",
    "num_sequences",
    "sequences_digest",
    "shards",
    "hash",
}


@dataclass(frozen=True, slots=True)
class ShardSpan:
    """Consecutive sequences that are captured, sealed and verified together."""

    index: int
    first: int
    """number of its first sequence"""
    count: int
    """sequences in it"""
    split: int
    """TRAIN or VALIDATION"""

    @property
    def stop(self) -> int:
        """One past its last sequence."""
        return self.first + self.count

    @property
    def shard_name(self) -> str:
        """File name of the shard."""
        return f"{self.index:05d}.shard"

    @property
    def seal_name(self) -> str:
        """File name of its seal."""
        return f"{self.index:05d}.seal.json"

    def to_json(self) -> dict[str, Any]:
        """As it stands in plan.json."""
        return {"index": self.index, "first": self.first, "count": self.count, "split": _SPLIT_WORDS[self.split]}


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that shapes the bytes of a cache, and the assignment of its sequences to shards."""

    identity: dict[str, Any]
    """what the cache is made from: teacher, tokenizer, data, packing, record; nested JSON"""
    layout: RecordLayout
    sequence_length: int
    """T"""
    num_sequences: int
    """S, of both splits"""
    sequences_digest: str
    """xxh3-128 of sequences.shard"""
    shards: tuple[ShardSpan, ...]
    capture: dict[str, Any]
    """how the teacher is run: batch_size, chunk_positions, dtype, device_class, packing"""
    format: int = FORMAT_VERSION
    """of the cache's bytes"""

    def __post_init__(self) -> None:
        if self.sequence_length < 1:
            raise ValueError(f"plan: sequence_length must be at least 1, found {self.sequence_length}")
        for name in ("batch_size", "chunk_positions"):
            if self.capture.get(name, 1) < 1:
                raise ValueError(f"plan: capture.{name} must be at least 1, found {self.capture[name]}")
        first = 0
        for index, span in enumerate(self.shards):
            if span.index != index or span.first != first or span.count < 1 or span.split not in _SPLIT_WORDS:
                raise ValueError(f"plan: shards must follow one another without gaps; found {span} at place {index}")
            first = span.stop
        if first != self.num_sequences or not self.shards:
            raise ValueError(f"plan: the shards hold {first} sequences, the plan {self.num_sequences}")

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON of everything else: the name by which parts of a cache find each other."""
        return hashlib.sha256(files.canonical_json(self._content())).hexdigest()

    @property
    def vocab_size(self) -> int:
        """V, the effective vocabulary."""
        return self.layout.vocab_size

    @property
    def head_size(self) -> int:
        """K, the ids that are kept with their log p: see `RecordLayout`."""
        return self.layout.head_size

    @property
    def betas(self) -> tuple[float, ...]:
        """1/τ of the stored log tail masses."""
        return self.layout.betas

    def spans(self, split: int) -> tuple[ShardSpan, ...]:
        """The shards of one split, TRAIN or VALIDATION."""
        return tuple(span for span in self.shards if span.split == split)

    def span_of(self, sequence: int) -> ShardSpan:
        """The shard that holds a sequence."""
        if not 0 <= sequence < self.num_sequences:
            raise IndexError(f"sequence {sequence} of a cache of {self.num_sequences}")
        return self.shards[int(np.searchsorted(self._firsts, sequence, side="right")) - 1]

    def span_named(self, shard_name: str) -> ShardSpan | None:
        """The shard of that file name."""
        return self._by_name.get(shard_name)

    def save(self, path: Path) -> None:
        """Write plan.json, whole or not at all."""
        files.write_json(path, self._content() | {"hash": self.hash})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read plan.json and check it against its own hash."""
        if size_on_disk(path) is None:
            raise IncompleteInputError(f"{path}: there is no plan. Run `sad-pipeline cache-teacher` first")
        try:
            with unread_errors(path):
                value = files.read_json(path)
        except DamagedDataError as error:
            raise DamagedDataError(f"{error}. {PLAN_FIX}") from error
        version = value.get("format")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise IdentityError(
                f"{path}: cache format {version}, this version reads up to {FORMAT_VERSION}. Upgrade sad-pipeline"
            )
        try:
            if version not in _READABLE or value.keys() != _FIELDS:
                raise ValueError(f"expected format {FORMAT_VERSION} with the fields {sorted(_FIELDS)}")
            plan = cls._from_content(value)
            content_hash = plan.hash
        except _NO_PLAN as error:
            raise DamagedDataError(f"{path}: is not a plan: {error}. {PLAN_FIX}") from error
        if content_hash != value["hash"]:
            raise DamagedDataError(f"{path}: its content has hash {content_hash}, it names {value['hash']}. {PLAN_FIX}")
        return plan

    @cached_property
    def _firsts(self) -> NDArray[np.int64]:
        return np.array([span.first for span in self.shards])

    @cached_property
    def _by_name(self) -> dict[str, ShardSpan]:
        return {span.shard_name: span for span in self.shards}

    def _content(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "identity": self.identity,
            "layout": self.layout.to_json(),
            "capture": self.capture,
            "sequence_length": self.sequence_length,
            "num_sequences": self.num_sequences,
            "sequences_digest": self.sequences_digest,
            "shards": [span.to_json() for span in self.shards],
        }

    @classmethod
    def _from_content(cls, value: dict[str, Any]) -> Self:
        counts = [value["sequence_length"], value["num_sequences"]]
        counts += [span[name] for span in value["shards"] for name in ("index", "first", "count")]
        if any(type(count) is not int for count in counts):
            raise TypeError("lengths, numbers and counts must be integers")
        if not isinstance(value["sequences_digest"], str):
            raise TypeError(f"sequences_digest must be text, found {type(value['sequences_digest']).__name__}")
        splits = {word: split for split, word in _SPLIT_WORDS.items()}
        return cls(
            identity=Told.read("identity", value["identity"]),
            layout=RecordLayout.from_json(value["layout"]),
            sequence_length=value["sequence_length"],
            num_sequences=value["num_sequences"],
            sequences_digest=value["sequences_digest"],
            shards=tuple(ShardSpan(**span | {"split": splits[span["split"]]}) for span in value["shards"]),
            capture=Told.read("capture", value["capture"]),
            format=value["format"],
        )


# What JSON of another shape raises on its way to a plan; numbers may be too large, and objects nested too deeply.
_NO_PLAN = (ValueError, TypeError, KeyError, OverflowError, RecursionError)


def cut_shards(split_S: NDArray[np.uint8], sequence_length: int, shard_positions: int) -> tuple[ShardSpan, ...]:
    """Cut sequences into shards of at most `shard_positions` positions, or one sequence; no shard mixes the splits.

    The shards of a split are as few as that allows, and differ by one sequence at most. `split_S` says TRAIN or
    VALIDATION of every sequence, all TRAIN ones first.
    """
    if (np.diff(split_S.astype(int)) < 0).any():
        raise ValueError("cut_shards: training sequences must come before validation sequences")
    spans: list[ShardSpan] = []
    per_shard = max(1, shard_positions // sequence_length)
    for split in (TRAIN, VALIDATION):
        total = int((split_S == split).sum())
        pieces = -(-total // per_shard)
        for piece in range(pieces):
            count = total // pieces + (piece < total % pieces)
            spans.append(ShardSpan(len(spans), spans[-1].stop if spans else 0, count, split))
    return tuple(spans)


def in_turn(spans: Iterable[ShardSpan]) -> list[ShardSpan]:
    """In the order in which shards are made: validation first, so that a student can begin on few."""
    return sorted(spans, key=lambda span: span.split != VALIDATION)


def plan_differences(plan: Plan, other: Plan) -> list[str]:
    """Lines `key: in plan -> in other` for everything in which two plans differ."""
    return differences(_described(plan), _described(other))


def _described(plan: Plan) -> dict[str, Any]:
    sizes = [span.count for span in plan.shards]
    return plan._content() | {"shards": f"{len(sizes)} of {min(sizes)} to {max(sizes)} sequences"}
