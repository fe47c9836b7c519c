"""Rows of JSON files: an object on each line, or a list of objects that is all of a small .json file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.data.compressed import READING_ERRORS, Unpacked, open_unpacked, packed_otherwise, words_of
from pipeline.data.rows import Row, without_nulls
from pipeline.errors import ConfigError

LIST_BYTES = 2**28
"""A list longer than this is refused: read at once, it takes several times as much memory"""


def read_json_rows(path: Path, columns: list[str]) -> Iterator[Row | str | None]:
    """Row after row: the columns asked for, None for a blank line, or the reason it cannot be read.

    One without the first of the columns comes whole, so that what it has can be said. ConfigError where the file cannot
    be read.
    """
    if reason := packed_otherwise(path):
        raise ConfigError(f"{path}: {reason}.")
    try:
        with open_unpacked(path) as file:
            if (rows := _list_in(path, file)) is not None:
                yield from (_columns_of(row, columns) for row in rows)
                return
            for line in file:
                yield _parse_line(line, columns) if line.strip() else None
    except READING_ERRORS as error:
        raise ConfigError(f"{path}: {words_of(error)}. Check data.path and its permissions.") from error


def count_json_rows(path: Path, limit: int | None = None) -> int:
    """How many rows a file has, blank lines counted; 0 where it cannot be read, which reading it says.

    No more of it is read once there are `limit`.
    """
    if packed_otherwise(path):
        return 0
    try:
        with open_unpacked(path) as file:
            if (rows := _list_in(path, file)) is not None:
                return len(rows)
            count, last = 0, b"\n"
            while (limit is None or count < limit) and (block := file.read(2**20)):
                count, last = count + block.count(b"\n"), block[-1:]
            return count + (last != b"\n")
    except READING_ERRORS:
        return 0


def _list_in(path: Path, file: Unpacked) -> list[Any] | None:
    """The list that a .json file is; None for one of lines, read from its beginning then."""
    if not path.name.removesuffix(".gz").endswith(".json"):
        return None
    beginning = file.read(2**10).removeprefix(b"\xef\xbb\xbf").lstrip()
    file.seek(0)
    if not beginning.startswith(b"["):
        return None
    content = file.read(LIST_BYTES + 1)
    if len(content) > LIST_BYTES:
        raise ConfigError(
            f"{path}: is one JSON list of more than {LIST_BYTES / 1e6:,.0f} MB; expected an object on each line. "
            f"Write it so: jq -c '.[]' {path.name} > {path.name.partition('.')[0]}.jsonl"
        )
    try:
        rows = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path}: begins as a JSON list and is none ({error}). Expected an object on each line, or a list of them. "
            "Write it again, or convert it with jq -c."
        ) from error
    return list(rows)


def _parse_line(line: bytes, columns: list[str]) -> Row | str:
    try:
        return _columns_of(json.loads(line.decode("utf-8-sig")), columns)
    except UnicodeDecodeError:
        return "not valid UTF-8"
    except (ValueError, RecursionError):  # nested too deeply, too
        return "not valid JSON"


def _columns_of(row: Any, columns: list[str]) -> Row | str:
    if not isinstance(row, dict):
        return "not a JSON object"
    if columns[0] not in row:
        return row
    return without_nulls({name: row[name] for name in columns if name in row})
