"""Parquet and hub datasets: damaged files, wrong names, no network."""

from __future__ import annotations

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data import tables
from pipeline.data.documents import Document, read_documents
from pipeline.data.settings import DataSettings
from pipeline.errors import ConfigError
from tests.data import builders


def test_strings_that_are_not_utf8_spare_the_other_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    raw = pa.array([b"good", b"\xff\xfe", b"fine"], pa.binary())
    pq.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), 3, raw.buffers())}), path)
    assert list(tables.read_parquet(path, ["text"])) == [{"text": "good"}, "not valid UTF-8", {"text": "fine"}]


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    assert list(tables.read_parquet(path, ["text"])) == []
    assert tables.count_parquet_rows(path) == 0


def test_what_is_not_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 it is not")
    with pytest.raises(ConfigError, match=r"rows\.parquet: expected a Parquet file;"):
        list(tables.read_parquet(path, ["text"]))


def test_a_damaged_page_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": [str(number) * 50 for number in range(1000)]}), path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[100:2000] = bytes(1900)
    path.write_bytes(bytes(content))
    with pytest.raises(ConfigError, match=r"rows\.parquet: the Parquet file is damaged"):
        list(tables.read_parquet(path, ["text"]))


def test_an_unknown_split_or_column_of_a_dataset_is_named(tmp_path: Path) -> None:
    builders.write_lines(tmp_path / "train.jsonl", [{"text": "x"}])
    with pytest.raises(ConfigError, match=r"Bad split: test.*Available splits: \['train'\]"):
        list(tables.read_dataset(str(tmp_path), None, "test", None, ["text"]))
    with pytest.raises(ConfigError, match="has no column 'body'; it has text"):
        list(tables.read_dataset(str(tmp_path), None, "train", None, ["body"]))


@pytest.mark.parametrize("splits", [False, True])
def test_a_dataset_of_save_to_disk_is_read_as_it_was(splits: bool, tmp_path: Path) -> None:
    """How many bring one to a machine without a network."""
    rows = [{"text": f"text {number}", "other": number} for number in range(7)]
    saved = datasets.Dataset.from_list(rows)
    (datasets.DatasetDict({"train": saved}) if splits else saved).save_to_disk(str(tmp_path / "saved"))
    found = list(tables.read_dataset(str(tmp_path / "saved"), None, "train", None, ["text"]))
    assert found == [(f"train:{number}", {"text": f"text {number - 1}"}) for number in range(1, 8)]
    assert tables.count_dataset_rows(str(tmp_path / "saved"), None, "train", None) == 7
    settings = DataSettings(source="hub", dataset=str(tmp_path / "saved"))
    assert [document.text for document in read_documents(settings) if isinstance(document, Document)] == [
        row["text"] for row in rows
    ]
    if splits:
        with pytest.raises(ConfigError, match="has no split 'test'; it has train"):
            list(tables.read_dataset(str(tmp_path / "saved"), None, "test", None, ["text"]))


def test_a_dataset_that_cannot_be_read_to_its_end_says_where(tmp_path: Path) -> None:
    path = builders.write_lines(tmp_path / "train.jsonl", [{"text": "x"}])
    path.write_text(path.read_text() + "{broken\n")
    with pytest.raises(ConfigError, match=r"(cannot be opened|reading failed after row)"):
        list(tables.read_dataset(str(tmp_path), None, "train", None, ["text"]))


def test_an_unreachable_hub_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"dataset owner/name: cannot be opened.*HF_HUB_OFFLINE unset"):
        list(tables.read_dataset("owner/name", None, "train", None, ["text"]))


def test_a_commit_needs_no_hub_and_a_tag_does() -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert tables.resolve_revision("owner/name", commit) == commit
    with pytest.raises(ConfigError, match=r"dataset owner/name, revision v1: the hub does not say which commit"):
        tables.resolve_revision("owner/name", "v1")
