"""What was found in the data before any compute: counts, and every reason for which something was left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import files
from pipeline.data.documents import TOOLS_COLUMN, Document, TokenizedDocument
from pipeline.data.messages import other_fields
from pipeline.errors import DamagedDataError

_NUM_EXAMPLES = 5
_MOST = 2**63


def _is_count(value: Any) -> bool:
    return type(value) is int and abs(value) < _MOST


_HOLDS: dict[str, Callable[[Any], bool]] = {
    "int": _is_count,
    "bool": lambda value: isinstance(value, bool),
    "float": lambda value: type(value) in (int, float) and 0 <= value <= 1,
    "list[str]": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "dict[str, int]": lambda value: isinstance(value, dict) and all(map(_is_count, value.values())),
}


def _refuse_other_types(record: Any) -> None:
    """TypeError where a field of a dataclass does not hold what it is for."""
    for part in fields(record):
        value = getattr(record, part.name)
        if (holds := _HOLDS.get(str(part.type))) is not None and not holds(value):
            raise TypeError(f"{part.name}: expected {part.type}, found {str(value)[:80]!r}")


@dataclass(slots=True)
class Dropped:
    """Documents left out for one reason."""

    count: int = 0
    examples: list[str] = field(default_factory=list)  # keys of the first few

    def add(self, key: str) -> None:
        """Count one more document."""
        self.count += 1
        if len(self.examples) < _NUM_EXAMPLES:
            self.examples.append(key)


@dataclass(slots=True)
class SplitCounts:
    """What one split holds."""

    documents: int = 0
    tokens: int = 0
    sequences: int = 0
    scored_positions: int = 0


@dataclass(slots=True)
class DataReport:
    """Counts over one preparation; filled while it runs, kept as JSON beside the cache."""

    documents_read: int = 0
    documents_kept: int = 0
    num_chats: int = 0  # of the documents kept
    dropped: dict[str, Dropped] = field(default_factory=dict)  # reason -> how many, and which
    num_characters: int = 0  # of the documents kept; of chats, as the chat template renders them
    num_bytes: int = 0  # UTF-8 bytes of the same
    num_tokens: int = 0  # end-of-text included
    num_unknown_tokens: int = 0
    num_uncovered_characters: int = 0  # that no token spells, white space apart
    num_control_spelled: int = 0  # control tokens that texts and messages spell
    num_control_ids: int = 0  # of these, how many became the control token itself
    num_characters_beyond: int = 0  # of the last document, where data.max_tokens cuts it
    num_turns_unscored: int = 0  # of the assistant, which the chat template rewrites beyond recognition
    max_tokens_reached: bool = False  # data.max_tokens left out what came after
    message_fields: dict[str, int] = field(default_factory=dict)  # beside role and content -> messages that have it
    unused_columns: dict[str, int] = field(default_factory=dict)  # columns no template can be given -> chats with one
    document_tokens: dict[str, int] = field(default_factory=dict)  # quantiles of a document's length: min, p25, ...
    train: SplitCounts = field(default_factory=SplitCounts)
    validation: SplitCounts = field(default_factory=SplitCounts)
    padding_share: float = 0.0  # of all ids of all sequences

    @property
    def documents_dropped(self) -> int:
        """How many documents were read and left out."""
        return sum(dropped.count for dropped in self.dropped.values())

    @property
    def documents_beyond(self) -> int:
        """How many documents were read and not needed, because there were tokens enough."""
        return self.documents_read - self.documents_kept - self.documents_dropped

    @property
    def unknown_share(self) -> float:
        """Share of tokens the vocabulary has no spelling for."""
        return self.num_unknown_tokens / self.num_tokens if self.num_tokens else 0.0

    @property
    def uncovered_share(self) -> float:
        """Share of the characters that no token spells."""
        return self.num_uncovered_characters / self.num_characters if self.num_characters else 0.0

    def drop(self, key: str, reason: str) -> None:
        """Count a document that is left out."""
        self.dropped.setdefault(reason, Dropped()).add(key)

    def keep(self, document: Document, encoded: TokenizedDocument) -> None:
        """Count a document that is used."""
        self.documents_kept += 1
        self.num_chats += document.messages is not None
        self.num_bytes += int(encoded.num_bytes.sum(dtype=np.int64))
        self.num_tokens += len(encoded.ids)
        for name, count in asdict(encoded.findings).items():
            setattr(self, name, getattr(self, name) + count)
        names = [name for message in document.messages or () for name in other_fields(message)]
        _count(self.message_fields, [*names, *([TOOLS_COLUMN] if document.tools else [])])
        _count(self.unused_columns, document.unused)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values, with a digest so that no figure of it can change unnoticed."""
        value = asdict(self)
        return value | {"digest": files.digest_json(value)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> DataReport:
        """Read back what `to_json` gave, an older version without the digest. DamagedDataError for anything else."""
        try:
            parts = dict(value)
            digest = parts.pop("digest", None)
            damaged = digest is not None and digest != files.digest_json(parts)
            parts["dropped"] = {reason: Dropped(**dropped) for reason, dropped in value["dropped"].items()}
            parts["train"], parts["validation"] = SplitCounts(**value["train"]), SplitCounts(**value["validation"])
            report = cls(**parts)
            for record in (report, report.train, report.validation, *report.dropped.values()):
                _refuse_other_types(record)
        except (KeyError, TypeError, AttributeError) as error:
            raise DamagedDataError(f"the data report is not one this version wrote ({error!r})") from error
        if damaged:
            raise DamagedDataError("the data report does not have the digest it names")
        return report

    @classmethod
    def load(cls, path: Path) -> DataReport:
        """The report in a file; DamagedDataError names it and says what to do."""
        try:
            return cls.from_json(files.read_json(path))
        except DamagedDataError as error:
            what = str(error).removeprefix(f"{path}: ")
            raise DamagedDataError(f"{path}: {what}. Remove it: only the report page shows its figures") from error

    def dropped_lines(self) -> list[str]:
        """One line a reason: how many documents, and the first few keys."""
        reasons = sorted(self.dropped.items(), key=lambda item: (-item[1].count, item[0]))
        return [
            f"  {dropped.count:,} {reason}: {', '.join(dropped.examples)}{', …' * (dropped.count > _NUM_EXAMPLES)}"
            for reason, dropped in reasons
        ]

    def summary_lines(self) -> list[str]:
        """The report for people, a few lines."""
        dropped = f"{self.documents_dropped:,} dropped"
        if self.documents_beyond:
            dropped += f", {self.documents_beyond:,} beyond data.max_tokens"
        what = "chats, as the template renders them" if self.num_chats else "text"
        lines = [
            f"{self.documents_read:,} documents read, {self.documents_kept:,} kept, {dropped}",
            *self.dropped_lines(),
            f"{what}: {self.num_characters:,} characters, {self.num_bytes:,} bytes, {self.num_tokens:,} tokens",
        ]
        if self.document_tokens:
            lengths = ", ".join(f"{name} {value:,}" for name, value in self.document_tokens.items())
            lines.append(f"tokens a document: {lengths}")
        if self.num_unknown_tokens:
            lines.append(f"unknown tokens: {self.unknown_share:.2%}")
        lines += self.odd_lines()
        for name, split in (("train", self.train), ("validation", self.validation)):
            lines.append(
                f"{name}: {split.documents:,} documents, {split.tokens:,} tokens, {split.sequences:,} sequences, "
                f"{split.scored_positions:,} scored positions"
            )
        return [*lines, f"padding: {self.padding_share:.2%} of all ids"]

    def odd_lines(self) -> list[str]:
        """One line for each thing that is not kept, or kept in another way than it may seem."""
        lines = []
        if self.num_characters_beyond:
            lines.append(f"cut at data.max_tokens: the last document, by {self.num_characters_beyond:,} characters")
        if self.num_uncovered_characters:
            lines.append(
                f"characters that no token spells: {self.num_uncovered_characters:,} ({self.uncovered_share:.2%})"
            )
        if self.num_control_spelled or self.num_control_ids:
            lines.append(
                f"control tokens spelled in the text: {self.num_control_spelled:,}; "
                f"{self.num_control_ids:,} became the control token, the others are text like any other"
            )
        if self.num_turns_unscored:
            lines.append(f"turns of the assistant not scored, which the template rewrites: {self.num_turns_unscored:,}")
        if self.message_fields:
            names = ", ".join(f"{name} ({count:,})" for name, count in sorted(self.message_fields.items()))
            lines.append(f"given to the chat template beside roles and contents: {names}")
        lines += [
            f"not used: column {name!r} of {count:,} chats, which is not a list of JSON objects"
            for name, count in sorted(self.unused_columns.items())
        ]
        return lines


def _count(counts: dict[str, int], names: Iterable[str]) -> None:
    for name in names:
        counts[name] = counts.get(name, 0) + 1
