"""Documents of every source, and the reasons why some cannot be read."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data import json_rows, tables
from pipeline.data.documents import (
    Document,
    Unreadable,
    expected_documents,
    order_key,
    pinned,
    read_documents,
    source_fingerprint,
)
from pipeline.data.settings import DataSettings
from pipeline.errors import ConfigError
from tests.data import builders

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def read(**values: Any) -> list[Document | Unreadable]:
    return list(read_documents(DataSettings(**values)))


# ------------------------------------------------------------------ files


def test_text_files_are_documents_in_their_seeded_order(texts_folder: Path) -> None:
    documents = read(source="text", path=str(texts_folder), seed=3)
    names = [path.name for path in texts_folder.iterdir()]
    assert [document.key for document in documents] == sorted(names, key=lambda name: order_key(3, name))
    for document in documents:
        assert isinstance(document, Document)
        assert document.text == (texts_folder / document.key).read_text(encoding="utf-8")
    assert read(source="text", path=str(texts_folder), seed=3, max_documents=2) == documents[:2]


def test_line_ends_stay_and_a_byte_order_mark_goes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    assert read(source="text", path=str(tmp_path)) == [Document("a.txt", "one\r\ntwo\n")]


def test_bytes_that_are_not_utf8_are_a_reason(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    assert read(source="text", path=str(tmp_path)) == [Unreadable("a.txt", "not valid UTF-8")]


def test_a_file_that_goes_away_is_a_reason(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    documents = read_documents(DataSettings(source="text", path=str(tmp_path)))
    first = next(documents)
    (other,) = {"a", "b"} - {first.key}
    (tmp_path / other).unlink()
    assert list(documents) == [Unreadable(other, "cannot be read (No such file or directory)")]


def test_texts_are_split_at_the_separator(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("--one-- --two\n----")
    (tmp_path / "b.txt").write_text("whole")
    builders.write_lines(tmp_path / "rows.jsonl", [{"text": "x--y"}, {"text": 1}])
    text = {"source": "text", "path": str(tmp_path / "*.txt"), "document_separator": "--"}
    expected = [Document("a.txt:1", "one"), Document("a.txt:2", "two\n"), Document("b.txt", "whole")]
    assert sorted(read(**text), key=lambda document: document.key) == expected
    assert len(read(**text, max_documents=2)) == 2
    rows = read(source="jsonl", path=str(tmp_path), document_separator="--")
    assert rows[:2] == [Document("rows.jsonl:1:1", "x"), Document("rows.jsonl:1:2", "y")]
    assert rows[2].key == "rows.jsonl:2"
    assert expected_documents(DataSettings(**text)) is None  # type: ignore[arg-type]
    assert expected_documents(DataSettings(**text, max_documents=7)) == 7  # type: ignore[arg-type]


def test_a_separator_is_not_for_chats() -> None:
    with pytest.raises(ValueError, match=r"data\.document_separator splits texts"):
        DataSettings(source="jsonl", path="x", document_separator="--", messages_column="chat")


# ------------------------------------------------------------------ JSONL


def test_bad_lines_are_counted_by_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [
        b'{"text": "good"}',
        b"",
        b"{not json",
        b"[1, 2]",
        b'{"body": "other column"}',
        b'{"text": 7}',
        b'{"text": "\xff"}',
        b'{"text": null}',
        b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"text": "last, without a line end"}',
    ]
    path.write_bytes(b"\n".join(lines))
    assert read(source="jsonl", path=str(path)) == [
        Document("rows.jsonl:1", "good"),
        Unreadable("rows.jsonl:3", "not valid JSON"),
        Unreadable("rows.jsonl:4", "not a JSON object"),
        Unreadable("rows.jsonl:5", "has no column 'text'"),
        Unreadable("rows.jsonl:6", "column 'text' is not a string"),
        Unreadable("rows.jsonl:7", "not valid UTF-8"),
        Unreadable("rows.jsonl:8", "column 'text' is not a string"),
        Unreadable("rows.jsonl:9", "not valid JSON"),
        Document("rows.jsonl:10", "last, without a line end"),
    ]


@pytest.mark.parametrize("depth", [300, 490, 700, 950])
def test_a_value_nested_too_deeply_ends_no_command(depth: int, tmp_path: Path) -> None:
    """Whatever gives up first: what reads JSON, or what leaves nulls out of it."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": ' + b"[" * depth + b"]" * depth + b"}\n")
    [found] = read(source="jsonl", path=str(path))
    assert isinstance(found, Unreadable)
    assert found.reason in ("column 'text' is not a string", "not valid JSON")


def test_a_file_of_lines_that_goes_away_stops(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        builders.write_lines(tmp_path / name, [{"text": name}])
    documents = read_documents(DataSettings(source="jsonl", path=str(tmp_path)))
    next(documents)
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"b\.jsonl: cannot be read \(No such file or directory\)"):
        next(documents)


def test_chats_of_json_lines(tmp_path: Path) -> None:
    bad: list[Any] = ["text", [1], [{"role": "user"}], [{"role": "user", "content": ["parts"]}]]
    rows = [{"chat": MESSAGES}, *({"chat": value} for value in bad)]
    path = builders.write_lines(tmp_path / "chats.jsonl", rows)
    first, *others = read(source="jsonl", path=str(path), messages_column="chat")
    assert first == Document("chats.jsonl:1", "", tuple(MESSAGES))
    reason = "column 'chat' is not a list of messages with a role and a content"
    assert others == [Unreadable(f"chats.jsonl:{number}", reason) for number in (2, 3, 4, 5)]


# ------------------------------------------------------------------ packed files, and .json


def pack(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content))
    return path


def test_packed_files_give_what_plain_ones_give(tmp_path: Path) -> None:
    lines = b"".join(b'{"text": "row %d"}\n' % number for number in range(3))
    path = pack(tmp_path / "rows.jsonl.gz", lines)
    documents = read(source="jsonl", path=str(path))
    assert documents == [Document(f"rows.jsonl.gz:{number}", f"row {number - 1}") for number in (1, 2, 3)]
    assert expected_documents(DataSettings(source="jsonl", path=str(path))) == 3
    path = pack(tmp_path / "a.txt.gz", b"\xef\xbb\xbfGr\xc3\xbc\xc3\x9fe\r\n")
    assert read(source="text", path=str(path)) == [Document("a.txt.gz", "Grüße\r\n")]


def test_an_archive_is_not_one_text(tmp_path: Path) -> None:
    path = pack(tmp_path / "texts.tar.gz", b"a.txt" + bytes(507) + b"text")
    assert read(source="text", path=str(path)) == [Unreadable("texts.tar.gz", "not valid UTF-8")]


@pytest.mark.parametrize("damage", ["cut", "no gzip", "a bit"])
def test_a_damaged_packed_file_is_said(damage: str, tmp_path: Path) -> None:
    whole = gzip.compress(b'{"text": "row"}\n' * 9)
    flipped = whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:]
    content = {"cut": whole[:-9], "no gzip": b'{"text": "row"}\n', "a bit": flipped}[damage]
    for name in ("rows.jsonl.gz", "a.txt.gz"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=r"rows\.jsonl\.gz: is a damaged gzip file \(.+\)\. Check data\.path"):
        read(source="jsonl", path=str(tmp_path / "rows.jsonl.gz"))
    (text,) = read(source="text", path=str(tmp_path / "a.txt.gz"))
    assert isinstance(text, Unreadable)
    assert text.reason.startswith("is a damaged gzip file (")


def test_other_ways_to_pack_are_refused_in_words(tmp_path: Path) -> None:
    for name in ("rows.jsonl.zst", "a.txt.xz"):
        (tmp_path / name).write_bytes(b"\x28\xb5\x2f\xfd")
    reason = "is packed in a way that is not read here ({}); unpack it, or pack it with gzip"
    settings = DataSettings(source="jsonl", path=str(tmp_path / "rows.jsonl.zst"))
    assert expected_documents(settings) == 0
    with pytest.raises(ConfigError, match=re.escape(reason.format(".zst"))):
        list(read_documents(settings))
    (text,) = read(source="text", path=str(tmp_path / "a.txt.xz"))
    assert text == Unreadable("a.txt.xz", reason.format(".xz"))


@pytest.mark.parametrize("before", ["", "\ufeff \n"])
def test_a_json_file_is_lines_or_one_list(before: str, tmp_path: Path) -> None:
    rows: list[Any] = [{"text": "one", "more": 1}, {"text": "two"}]
    (tmp_path / "list.json").write_text(before + json.dumps([*rows, 3], indent=1), encoding="utf-8")
    builders.write_lines(tmp_path / "lines.json", rows)
    documents = read(source="jsonl", path=str(tmp_path))
    assert documents == [
        Document("lines.json:1", "one"),
        Document("lines.json:2", "two"),
        Document("list.json:1", "one"),
        Document("list.json:2", "two"),
        Unreadable("list.json:3", "not a JSON object"),
    ]
    assert expected_documents(DataSettings(source="jsonl", path=str(tmp_path))) == 5


def test_a_list_too_large_or_broken_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.json"
    path.write_text("[{]")
    with pytest.raises(ConfigError, match=r"rows\.json: begins as a JSON list and is none \(.*\)\. Expected an object"):
        read(source="jsonl", path=str(path))
    monkeypatch.setattr(json_rows, "LIST_BYTES", 10)
    path.write_text(json.dumps([{"text": "long"}]))
    with pytest.raises(ConfigError, match=r"an object on each line\. Write it so: jq -c '\.\[\]' rows\.json >"):
        read(source="jsonl", path=str(path))


# ------------------------------------------------------------------ tables


def test_parquet_gives_what_json_lines_give(tmp_path: Path) -> None:
    rows = [{"text": f"row {number}", "chat": MESSAGES, "other": number} for number in range(2500)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    builders.write_lines(tmp_path / "rows.jsonl", rows)
    for column in ({}, {"messages_column": "chat"}):
        table = read(source="parquet", path=str(tmp_path), **column)
        lines = read(source="jsonl", path=str(tmp_path), **column)
        assert [(d.text, d.messages) for d in table] == [(d.text, d.messages) for d in lines]  # type: ignore[union-attr]
        assert table[-1].key == "rows.parquet:2500"


def test_a_local_folder_stands_in_for_a_hub_dataset(tmp_path: Path) -> None:
    builders.write_lines(tmp_path / "train.jsonl", [{"text": f"row {number}"} for number in range(4)])
    builders.write_lines(tmp_path / "test.jsonl", [{"text": "held out"}])
    documents = read(source="hub", dataset=str(tmp_path), max_documents=3)
    assert documents == [Document(f"train:{number}", f"row {number - 1}") for number in (1, 2, 3)]
    assert read(source="hub", dataset=str(tmp_path), dataset_split="test") == [Document("test:1", "held out")]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_chats_of_a_local_dataset(tmp_path: Path, kind: str) -> None:
    rows = [{"id": 1, "chat": MESSAGES}, {"id": 2, "chat": MESSAGES[:1]}]
    if kind == "jsonl":
        builders.write_lines(tmp_path / "train.jsonl", rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    documents = read(source="hub", dataset=str(tmp_path), messages_column="chat")
    assert documents == [Document("train:1", "", tuple(MESSAGES)), Document("train:2", "", tuple(MESSAGES[:1]))]


# ------------------------------------------------------------------ identity


def test_fingerprints_follow_names_and_sizes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("12345")
    settings = DataSettings(source="text", path=str(tmp_path / "a"))
    first = source_fingerprint(settings)
    assert (first["num_files"], first["num_bytes"]) == (1, 5)
    (tmp_path / "a").rename(tmp_path / "b")
    assert source_fingerprint(DataSettings(source="text", path=str(tmp_path / "b"))) == first
    (tmp_path / "b" / "x.txt").write_text("123456")
    assert source_fingerprint(DataSettings(source="text", path=str(tmp_path / "b"))) != first
    assert json.loads(json.dumps(first)) == first


def test_the_standard_library_carries_its_version() -> None:
    fingerprint = source_fingerprint(DataSettings(source="stdlib"))
    assert fingerprint["num_files"] > 500
    assert fingerprint["python"].count(".") == 2


def test_a_local_dataset_is_known_by_its_files_and_split(tmp_path: Path) -> None:
    builders.write_lines(tmp_path / "train.jsonl", [{"text": "x"}])
    fingerprint = source_fingerprint(DataSettings(source="hub", dataset=str(tmp_path)))
    assert fingerprint["num_files"] == 1
    assert fingerprint["split"] == "train"


@pytest.mark.parametrize("limit", [None, 3])
def test_expected_documents(tmp_path: Path, limit: int | None) -> None:
    rows = [{"text": str(number)} for number in range(7)]
    builders.write_lines(tmp_path / "rows.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for source, count in (("jsonl", 7), ("parquet", 7), ("text", 2)):
        settings = DataSettings(source=source, path=str(tmp_path), max_documents=limit)  # type: ignore[arg-type]
        assert expected_documents(settings) == min(count, limit or count)


def test_pinned_asks_the_hub_once_and_reads_that_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def resolve(dataset: str, revision: str | None) -> str:
        asked.append(revision)
        return "c" * 40

    monkeypatch.setattr(tables, "resolve_revision", resolve)
    settings = DataSettings(source="hub", dataset="owner/name", revision="v1")
    found = pinned(settings)
    assert asked == ["v1"]
    assert found == settings.model_copy(update={"revision": "c" * 40})
    assert settings.revision == "v1"
    read: list[Any] = []
    monkeypatch.setattr(tables, "read_dataset", lambda *args: iter(read.append(args) or [("train:1", {"text": "x"})]))
    assert list(read_documents(found)) == [Document("train:1", "x")]
    assert read[0][3] == "c" * 40


def test_what_lies_here_needs_no_pin(tmp_path: Path) -> None:
    for settings in (
        DataSettings(source="hub", dataset=str(tmp_path)),
        DataSettings(source="text", path=str(tmp_path)),
        DataSettings(source="stdlib"),
    ):
        assert pinned(settings) is settings
