"""Finding the parts of a cache on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cache.roots import earlier_plan, find_files, find_sealed, find_sequences, find_tokenizer
from pipeline.errors import ConfigError, DamagedDataError, IncompleteInputError
from tests.cache.dense import make_cache


def test_an_earlier_plan_is_found_here_or_in_a_root(tmp_path: Path) -> None:
    assert earlier_plan(tmp_path / "new") is None
    plan, _, _ = make_cache(tmp_path / "input" / "old")
    found = earlier_plan(tmp_path / "new", [tmp_path / "input"])
    assert found is not None
    assert (found[0].hash, found[1]) == (plan.hash, [tmp_path / "input" / "old"])
    with pytest.raises(ConfigError, match="no such folder"):
        earlier_plan(tmp_path / "new", [tmp_path / "nowhere"])


def test_files_at_any_depth_in_a_fixed_order_but_not_in_hidden_folders(tmp_path: Path) -> None:
    for name in ("b/deep/down/plan.json", "a/plan.json", "plan.json", ".trash/plan.json", "a/other.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    found = [str(path.relative_to(tmp_path)) for path in find_files(tmp_path, "plan.json")]
    assert found == ["plan.json", "a/plan.json", "b/deep/down/plan.json"]
    assert list(find_files(tmp_path / "absent", "*")) == []


def test_overlapping_roots_count_a_shard_once(tmp_path: Path) -> None:
    plan, _, _ = make_cache(tmp_path / "run" / "cache")
    found = find_sealed(plan, [tmp_path / "run" / "cache", tmp_path / "run", tmp_path])
    assert [len(copies) for copies in found.values()] == [1] * len(plan.shards)
    assert found[0][0].seal_path == tmp_path / "run" / "cache" / "shards" / "00000.seal.json"


def test_a_damaged_seal_is_said_and_not_passed_over(tmp_path: Path) -> None:
    plan, _, _ = make_cache(tmp_path)
    (tmp_path / "shards" / "00001.seal.json").write_text("{")
    with pytest.raises(DamagedDataError, match=r"00001\.seal\.json"):
        find_sealed(plan, [tmp_path])


def test_a_damaged_seal_of_another_root_is_passed_over_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, _, _ = make_cache(tmp_path / "here")
    make_cache(tmp_path / "mounted")
    (tmp_path / "mounted" / "shards" / plan.shards[1].seal_name).write_text("{}")
    (tmp_path / "here" / "shards" / plan.shards[0].seal_name).unlink()
    copies = find_sealed(plan, [tmp_path / "here", tmp_path / "mounted"])
    assert [len(copies[span.index]) for span in plan.shards] == [1, 1, *[2] * (len(plan.shards) - 2)]
    assert "are passed over" in capsys.readouterr().err


def test_seals_without_their_plan_are_not_planned_over(tmp_path: Path) -> None:
    make_cache(tmp_path)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(DamagedDataError, match=r"plan\.json it belongs to is gone.*--run-dir"):
        earlier_plan(tmp_path)


def test_sequences_and_tokenizer_come_from_the_first_folder_that_has_them(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    assert find_sequences(folders) == tmp_path / "one" / "sequences.shard"
    make_cache(tmp_path / "two")
    assert find_sequences(folders) == tmp_path / "two" / "sequences.shard"
    with pytest.raises(IncompleteInputError, match="expected the teacher's tokenizer"):
        find_tokenizer(folders)
    (tmp_path / "two" / "tokenizer").mkdir()
    assert find_tokenizer(folders) == tmp_path / "two" / "tokenizer"
