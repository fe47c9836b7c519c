"""Which files a source consists of; names that do not depend on where the source lies."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.data.settings import DataSettings
from pipeline.data.source_files import is_local, source_files
from pipeline.errors import ConfigError


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def names_of(source: str, path: Path) -> list[str]:
    return list(source_files(DataSettings(source=source, path=str(path))))  # type: ignore[arg-type]


def test_a_folder_is_read_to_its_depth_without_hidden_files(tmp_path: Path) -> None:
    fill(tmp_path, "b.txt", "a/z.md", "a/.hidden", ".git/config", "c")
    assert names_of("text", tmp_path) == ["a/z.md", "b.txt", "c"]


def test_each_source_takes_its_own_endings(tmp_path: Path) -> None:
    fill(tmp_path, "a.jsonl", "b.ndjson", "c.parquet", "d.txt")
    assert names_of("jsonl", tmp_path) == ["a.jsonl", "b.ndjson"]
    assert names_of("parquet", tmp_path) == ["c.parquet"]


def test_a_file_is_taken_whatever_its_ending(tmp_path: Path) -> None:
    assert names_of("jsonl", fill(tmp_path, "rows.json") / "rows.json") == ["rows.json"]


def test_packed_lines_are_taken_and_json_where_there_are_none(tmp_path: Path) -> None:
    fill(tmp_path, "x/info.json", "x/rows.json.gz")
    assert names_of("jsonl", tmp_path) == ["x/info.json", "x/rows.json.gz"]
    fill(tmp_path, "a.jsonl.gz", "b.ndjson.gz", "c.gz")
    assert names_of("jsonl", tmp_path) == ["a.jsonl.gz", "b.ndjson.gz"]
    with pytest.raises(ConfigError, match=r"found 1 \.zst\. .* unpack what is packed, but for \.gz"):
        names_of("jsonl", fill(tmp_path / "packed", "a.jsonl.zst"))


def test_a_pattern_names_files_from_its_fixed_part(tmp_path: Path) -> None:
    fill(tmp_path, "one/a.txt", "two/deep/b.txt", "two/c.md")
    assert names_of("text", tmp_path / "**" / "*.txt") == ["one/a.txt", "two/deep/b.txt"]
    assert names_of("text", tmp_path / "two" / "*") == ["c.md"]


def test_names_are_the_same_in_another_place(tmp_path: Path) -> None:
    here, there = fill(tmp_path / "here", "x/a.txt"), fill(tmp_path / "there", "x/a.txt")
    assert names_of("text", here) == names_of("text", there)


def test_the_standard_library_is_without_installed_packages() -> None:
    found = source_files(DataSettings(source="stdlib"))
    assert {"abc.py", "json/decoder.py"} <= set(found)
    assert not any("site-packages" in name or "dist-packages" in name for name in found)
    assert found["abc.py"] == Path(sysconfig.get_path("stdlib"), "abc.py")


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path .*nowhere: no such file or folder"):
        names_of("text", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no file matches it as a pattern"):
        names_of("text", tmp_path / "*.txt")


def test_a_folder_of_other_files_says_what_it_holds(tmp_path: Path) -> None:
    fill(tmp_path, "a.csv", "b.csv", "README")
    with pytest.raises(ConfigError, match=r"expected \.parquet files in this folder, found 2 \.csv, 1 \(none\)"):
        names_of("parquet", tmp_path)
    with pytest.raises(ConfigError, match="expected text files in this folder, found no file at all"):
        names_of("text", fill(tmp_path / "empty", ".hidden"))


def test_a_folder_in_place_of_a_hub_dataset_is_local(tmp_path: Path) -> None:
    assert is_local(DataSettings(source="hub", dataset=str(tmp_path)))
    assert not is_local(DataSettings(source="hub", dataset="owner/name"))


def test_an_empty_folder_is_told_by_the_key_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.dataset .*found no file at all\. Point data\.dataset at the right"):
        source_files(DataSettings(source="hub", dataset=str(tmp_path), path="elsewhere"))
    with pytest.raises(ConfigError, match=r"^data\.path .*found no file at all\. Point data\.path at the right"):
        names_of("parquet", tmp_path)


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    fill(tmp_path, "corpus/a/x.txt", "elsewhere/deep/y.txt", "corpus/.hidden/z.txt")
    corpus = tmp_path / "corpus"
    (corpus / "a" / "up").symlink_to(corpus, target_is_directory=True)
    (corpus / "0-again").symlink_to(corpus / "a", target_is_directory=True)
    (corpus / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (corpus / "linked-too").symlink_to(tmp_path / "elsewhere" / "deep", target_is_directory=True)
    (corpus / "gone").symlink_to(tmp_path / "nowhere", target_is_directory=True)
    assert names_of("text", corpus) == ["a/x.txt", "linked/deep/y.txt"]


def test_a_folder_that_is_a_link_is_read(tmp_path: Path) -> None:
    fill(tmp_path, "real/a.txt")
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    assert names_of("text", tmp_path / "link") == ["a.txt"]


@pytest.mark.parametrize("values", [{"path": ""}, {"path": "x", "seed": 2**63}, {"path": "x", "seed": -1}])
def test_settings_that_mean_nothing_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"at least 1 character|less than 9223372036854775808|or equal to 0"):
        DataSettings(source="text", **values)
