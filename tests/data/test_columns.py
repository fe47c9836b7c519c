"""A column that the config names and the rows do not have: said at once, with those that they have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data import documents
from pipeline.data.documents import Document, Unreadable, read_documents
from pipeline.data.settings import DataSettings
from pipeline.errors import ConfigError
from tests.data import builders

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def read(**values: Any) -> list[Document | Unreadable]:
    return list(read_documents(DataSettings(**values)))


def test_a_missing_column_of_a_table_stops_at_once(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), tmp_path / "rows.parquet")
    with pytest.raises(ConfigError, match=r"has no column 'text'; it has body, n\. Set data\.text_column"):
        read(source="parquet", path=str(tmp_path))


@pytest.mark.parametrize("column", ["text_column", "messages_column"])
def test_a_column_that_no_row_has_is_said_with_those_there_are(
    column: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a table, and long before the end of the files."""
    path = builders.write_lines(tmp_path / "rows.jsonl", [{"body": str(number), "n": number} for number in range(9)])
    said = (
        r"rows\.jsonl:1, like all {} rows looked at: has no column 'chat'; it has body, n\. Set data\.text_column, or "
    )
    with pytest.raises(ConfigError, match=said.format(9) + r"data\.messages_column for chats"):
        read(source="jsonl", path=str(path), **{column: "chat"})
    with pytest.raises(ConfigError, match=said.format(5)):
        read(source="jsonl", path=str(path), max_documents=5, **{column: "chat"})
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"chat": "x" if column == "text_column" else MESSAGES}))
    assert isinstance(read(source="jsonl", path=str(path), **{column: "chat"})[-1], Document)
    monkeypatch.setattr(documents, "_FIRST_ROWS", 9)
    with pytest.raises(ConfigError, match=said.format(9)):
        read(source="jsonl", path=str(path), **{column: "chat"})


def test_one_row_without_the_column_and_none_with_it(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{broken\n{"body": 1}\n')
    with pytest.raises(ConfigError, match=r"^rows\.jsonl:2: has no column 'text'; it has body\."):
        read(source="jsonl", path=str(tmp_path))
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"^rows\.jsonl:1: has no column 'text'; it has none\."):
        read(source="jsonl", path=str(tmp_path))
