"""Documents: one text or chat each, as they come from the source a config names.

Files that each hold one document (text, the standard library) come in the seeded order of their names, so that a
limit takes a fair sample of them; rows of tables come as they lie.
"""

from __future__ import annotations

import hashlib
import itertools
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data import tables
from pipeline.data.compressed import READING_ERRORS, open_unpacked, packed_otherwise, words_of
from pipeline.data.json_rows import count_json_rows, read_json_rows
from pipeline.data.messages import Message, Tool, as_messages, as_tools
from pipeline.data.rows import Row, require_columns
from pipeline.data.settings import DataSettings
from pipeline.data.source_files import is_local, source_files
from pipeline.files import canonical_json

TOOLS_COLUMN = "tools"  # of chats, beside data.messages_column
_FIRST_ROWS = 10_000  # of JSON, read in a second: one of them has the column, or none is looked for any further


@dataclass(frozen=True, slots=True)
class Document:
    """One text, or one chat (then `text` is empty and each message has a role, a content and perhaps more)."""

    key: str  # name of its file, or file and row: the same wherever the source lies
    text: str
    messages: tuple[Message, ...] | None = None
    tools: tuple[Tool, ...] | None = None  # of a chat, for its template
    unused: tuple[str, ...] = ()  # columns of a chat that the template cannot be given

    @property
    def content(self) -> str:
        """What was written: the text, or all messages of the chat."""
        return self.text if self.messages is None else "".join(message["content"] for message in self.messages)

    @property
    def num_characters(self) -> int:
        """Length of the text, or of all messages of the chat."""
        return len(self.content)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A document that cannot be used, and why."""

    key: str
    reason: str


@dataclass(slots=True)
class Findings:
    """What tokenising one document met; its text is the text, or the chat as the template renders it."""

    num_characters: int = 0
    num_unknown_tokens: int = 0
    num_uncovered_characters: int = 0  # that no token spells, white space apart
    num_control_spelled: int = 0  # control tokens that the text, or a message, spells
    num_control_ids: int = 0  # of these, how many became the control token itself
    num_characters_beyond: int = 0  # of a text that data.max_tokens cuts, not counted above
    num_turns_unscored: int = 0  # of the assistant, which the chat template rewrites beyond recognition


@dataclass(frozen=True, slots=True)
class TokenizedDocument:
    """The ids of a document of n tokens, ending with the end-of-text id."""

    key: str
    ids: NDArray[np.uint32]  # [n]
    scored: NDArray[np.bool_]  # [n] is this token ever a scored label
    num_bytes: NDArray[np.unsignedinteger]  # [n] UTF-8 bytes of the text that this token adds
    findings: Findings = field(default_factory=Findings)


def read_documents(settings: DataSettings) -> Iterator[Document | Unreadable]:
    """Every document of the source, up to `max_documents`, in an order that only the source and the seed decide."""
    if settings.source in ("stdlib", "text"):
        documents = _read_text_files(settings)
    else:
        documents = (_from_row(key, row, settings) for key, row in _read_rows(settings))
    if settings.document_separator is not None:
        documents = _split(documents, settings.document_separator)
    return itertools.islice(documents, settings.max_documents)


def source_fingerprint(settings: DataSettings) -> dict[str, Any]:
    """Cheap identity of the source: names and sizes of local files, or the resolved commit of a hub dataset.

    ConfigError where the hub cannot be asked, as in a later session without a network.
    """
    part = {"subset": settings.subset, "split": settings.dataset_split} if settings.source == "hub" else {}
    if settings.dataset is not None and not is_local(settings):
        commit = tables.resolve_revision(settings.dataset, settings.revision)
        return {"dataset": settings.dataset, "revision": commit} | part
    sizes = [(name, path.stat().st_size) for name, path in source_files(settings).items()]
    local = {
        "num_files": len(sizes),
        "num_bytes": sum(size for _, size in sizes),
        "names_and_sizes_sha256": hashlib.sha256(canonical_json(sizes)).hexdigest(),
    }
    return local | part | ({"python": platform.python_version()} if settings.source == "stdlib" else {})


def pinned(settings: DataSettings) -> DataSettings:
    """The same settings with the commit of a hub dataset as their revision; of any other source, the settings.

    Asked once, before anything is read: then what is read, and what the fingerprint names, is one commit, whatever
    is uploaded meanwhile. For reading only: the plan's settings keep the revision that the user wrote.
    """
    if settings.dataset is None or is_local(settings):
        return settings
    return settings.model_copy(update={"revision": tables.resolve_revision(settings.dataset, settings.revision)})


def expected_documents(settings: DataSettings) -> int | None:
    """How many documents reading will meet, at most; None where nobody knows. Lines are counted by reading them."""
    count: int | None
    if settings.document_separator is not None:
        count = None
    elif settings.source == "hub" and settings.dataset is not None:
        count = tables.count_dataset_rows(settings.dataset, settings.subset, settings.dataset_split, settings.revision)
    elif settings.source == "parquet":
        count = sum(tables.count_parquet_rows(path) for path in source_files(settings).values())
    elif settings.source == "jsonl":
        count, limit = 0, settings.max_documents
        for path in source_files(settings).values():
            count += count_json_rows(path, None if limit is None else limit - count)
            if limit is not None and count >= limit:
                break
    else:
        count = len(source_files(settings))
    return min((limit for limit in (count, settings.max_documents) if limit is not None), default=None)


def order_key(seed: int, key: str) -> bytes:
    """Sorting by it shuffles documents by their keys alone: the same order on every machine and library version."""
    return hashlib.blake2b(f"{seed}\0{key}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _split(documents: Iterable[Document | Unreadable], separator: str) -> Iterator[Document | Unreadable]:
    """Each text that holds the separator as what stands between: numbered, and without what is blank."""
    for document in documents:
        if isinstance(document, Unreadable) or separator not in document.text:
            yield document
            continue
        number, start = 0, 0
        while start <= len(document.text):  # one after the other: a text may be as long as memory allows
            end = document.text.find(separator, start)
            end = len(document.text) if end < 0 else end
            piece = document.text[start:end]
            if piece and not piece.isspace():
                number += 1
                yield Document(f"{document.key}:{number}", piece)
            start = end + len(separator)


def _read_text_files(settings: DataSettings) -> Iterator[Document | Unreadable]:
    named = source_files(settings)
    for name in sorted(named, key=lambda name: order_key(settings.seed, name)):
        if reason := packed_otherwise(named[name]):
            yield Unreadable(name, reason)
            continue
        try:
            with open_unpacked(named[name]) as file:
                yield Document(name, file.read().decode("utf-8-sig"))
        except UnicodeDecodeError:
            yield Unreadable(name, "not valid UTF-8")
        except READING_ERRORS as error:
            yield Unreadable(name, words_of(error))


def refuse_other_columns(settings: DataSettings) -> None:
    """ConfigError where the rows of files have other columns than the config names: told by the first of them."""
    if settings.source in ("jsonl", "parquet"):
        column, rows = _column(settings), itertools.islice(_read_rows(settings), _FIRST_ROWS)
        next((key for key, row in rows if isinstance(row, dict) and column in row), None)


def _column(settings: DataSettings) -> str:
    return settings.messages_column or settings.text_column


def _read_rows(settings: DataSettings) -> Iterator[tuple[str, Any]]:
    columns = [_column(settings)]
    optional = [TOOLS_COLUMN] if settings.messages_column else []
    if settings.source == "hub" and settings.dataset is not None:
        yield from tables.read_dataset(
            settings.dataset, settings.subset, settings.dataset_split, settings.revision, columns, optional
        )
        return
    limit = min(_FIRST_ROWS, settings.max_documents or _FIRST_ROWS)
    yield from _requiring(columns[0], _rows_of_files(settings, columns, optional), limit)


def _rows_of_files(settings: DataSettings, columns: list[str], optional: list[str]) -> Iterator[tuple[str, Row | str]]:
    rows: Iterator[Row | str | None]
    for name, path in source_files(settings).items():
        if settings.source == "parquet":
            rows = tables.read_parquet(path, columns, optional)
        else:
            rows = read_json_rows(path, columns + optional)
        for number, row in enumerate(rows, start=1):
            if row is not None:
                yield f"{name}:{number}", row


def _requiring(column: str, rows: Iterator[tuple[str, Row | str]], limit: int) -> Iterator[tuple[str, Row | str]]:
    """The rows; ConfigError where the first `limit`, or all, lack the column, with what the very first has instead."""
    first, num_lacking = None, 0
    for key, row in rows:
        if isinstance(row, dict):
            if column in row:
                yield key, row
                yield from rows
                return
            first, num_lacking = first or (key, row), num_lacking + 1
            if num_lacking == limit:
                break
        yield key, row
    if first is not None:
        others = f", like all {num_lacking:,} rows looked at" if num_lacking > 1 else ""
        require_columns(f"{first[0]}{others}", first[1], [column])


def _from_row(key: str, row: dict[str, Any] | str, settings: DataSettings) -> Document | Unreadable:
    if isinstance(row, str):
        return Unreadable(key, row)
    column = _column(settings)
    if column not in row:
        return Unreadable(key, f"has no column {column!r}")
    value = row[column]
    if settings.messages_column is None:
        return Document(key, value) if isinstance(value, str) else Unreadable(key, f"column {column!r} is not a string")
    messages = as_messages(value)
    if isinstance(messages, str):
        return Unreadable(key, f"column {column!r} {messages}")
    tools = as_tools(row.get(TOOLS_COLUMN))
    return Document(key, "", messages, tools or None, unused=() if tools is not None else (TOOLS_COLUMN,))
