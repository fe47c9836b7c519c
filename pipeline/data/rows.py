"""A row of a table or of a JSON file: column -> value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.errors import ConfigError

Row = dict[str, Any]


def require_columns(where: str, found: Iterable[str], wanted: Iterable[str]) -> None:
    """ConfigError where a column is not among those that were found."""
    names = list(found)
    for column in wanted:
        if column not in names:
            raise ConfigError(
                f"{where}: has no column {column!r}; it has {', '.join(names) or 'none'}. Set data.text_column, or "
                "data.messages_column for chats."
            )


def without_nulls(row: Row) -> Row:
    """The row, and inside its columns no field that is null.

    Tables give every object the fields of all of them, and what writes JSON lines from a table keeps those: to a chat
    template, `tool_calls: null` is not the same as none.
    """
    return {name: _without_null_fields(value) for name, value in row.items()}


def _without_null_fields(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_null_fields(part) for name, part in value.items() if part is not None}
    return [_without_null_fields(part) for part in value] if isinstance(value, list) else value
