"""Finding the parts of a cache on disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.cache import TeacherCache
from pipeline.cache.roots import earlier_plan, find_files, find_sealed, find_sequences, find_tokenizer, seal_beside
from pipeline.cache.verify import verify_cache
from pipeline.errors import ConfigError, DamagedDataError, IdentityError, IncompleteInputError
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
    assert seal_beside(found[0][0].path) == tmp_path / "run" / "cache" / "shards" / "00000.seal.json"


def test_a_damaged_seal_is_said_and_not_passed_over(tmp_path: Path) -> None:
    plan, _, _ = make_cache(tmp_path)
    (tmp_path / "shards" / "00001.seal.json").write_text("{")
    with pytest.raises(DamagedDataError, match=r"00001\.seal\.json"):
        find_sealed(plan, [tmp_path])


@pytest.mark.parametrize("later", [False, True], ids=["damaged", "of a later version"])
def test_a_seal_of_another_root_that_cannot_be_read_is_passed_over_and_said(
    later: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, _, _ = make_cache(tmp_path / "here")
    make_cache(tmp_path / "mounted")
    (tmp_path / "mounted" / "shards" / plan.shards[1].seal_name).write_text('{"format": 99}' if later else "{}")
    (tmp_path / "here" / "shards" / plan.shards[0].seal_name).unlink()
    copies = find_sealed(plan, [tmp_path / "here", tmp_path / "mounted"])
    assert [len(copies[span.index]) for span in plan.shards] == [1, 1, *[2] * (len(plan.shards) - 2)]
    assert "are passed over" in capsys.readouterr().err


def test_a_short_copy_of_a_shard_in_another_root_is_passed_over_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next root's is taken, or it is computed here; verify names it all the same."""
    plan, _, _ = make_cache(tmp_path / "here")
    roots = [tmp_path / "short", tmp_path / "whole"]
    for root in roots:
        shutil.copytree(tmp_path / "here", root)
    for place in (tmp_path / "here" / "shards", tmp_path / "whole" / "shards"):
        (place / plan.shards[0].seal_name).unlink()
    (tmp_path / "here" / "shards" / plan.shards[1].seal_name).unlink()
    short = [tmp_path / "short" / "shards" / span.shard_name for span in plan.shards[:2]]
    for path in short:
        path.write_bytes(path.read_bytes()[:-1])
    cache = TeacherCache.open(tmp_path / "here", *roots)
    assert cache.missing == [plan.shards[0]]
    assert cache.shards[1].path == tmp_path / "whole" / "shards" / plan.shards[1].shard_name
    said = capsys.readouterr().err
    assert all(f"are passed over. {path}: has " in said for path in short)
    assert "sad-pipeline repair" not in said
    assert {problem.path for problem in verify_cache(tmp_path / "here", roots)} == set(short)
    with pytest.raises(DamagedDataError, match=r"its seal names.*sad-pipeline repair"):
        TeacherCache.open(tmp_path / "short")


OTHERS = {
    "of another tool": b'{"format": "terraform", "resources": []}',
    "of a later version": b'{"format": 99}',
    "no JSON": b"PK",
    "a list": b"[]",
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS.keys())
def test_what_is_only_called_plan_in_another_root_is_passed_over_and_said(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "input" / "of-others" / "plan.json"
    other.parent.mkdir(parents=True)
    other.write_bytes(content)
    assert earlier_plan(tmp_path / "new", [tmp_path / "input"]) is None
    with pytest.raises(IncompleteInputError, match=r"no cache here \(looked for plan\.json"):
        TeacherCache.open(tmp_path / "new", tmp_path / "input")
    plan, _, _ = make_cache(tmp_path / "input" / "output")
    assert TeacherCache.open(tmp_path / "new", tmp_path / "input").complete
    found = earlier_plan(tmp_path / "new", [tmp_path / "input"])
    assert found is not None
    assert (found[0].hash, found[1]) == (plan.hash, [tmp_path / "input" / "output"])
    said = capsys.readouterr().err
    assert f"note: this plan is passed over. {other}: " in said
    assert "start a new run directory" not in said
    (tmp_path / "new").mkdir()
    assert [problem.path for problem in verify_cache(tmp_path / "new", [tmp_path / "input"])] == [other]
    for first in (tmp_path / "input", tmp_path / "input" / "of-others"):  # named alone, it is what was meant
        with pytest.raises((DamagedDataError, IdentityError), match=f"^{other}: "):
            TeacherCache.open(first)


def test_a_damaged_plan_of_one_of_two_outputs_is_passed_over_and_its_shards_are_not(tmp_path: Path) -> None:
    plan, _, _ = make_cache(tmp_path / "input" / "one")
    make_cache(tmp_path / "input" / "two")
    _damage(tmp_path / "input" / "one" / "plan.json")
    (tmp_path / "input" / "two" / "shards" / plan.shards[0].seal_name).unlink()
    for roots in ([tmp_path / "input"], [tmp_path / "input" / "one", tmp_path / "input" / "two"]):
        cache = TeacherCache.open(tmp_path / "new", *roots)
        assert (cache.complete, cache.folders) == (True, (tmp_path / "input" / "two",))


def test_a_new_plan_is_never_made_over_seals_whose_plan_is_damaged(tmp_path: Path) -> None:
    """Here as in a root: what is sealed there would be computed once more."""
    make_cache(tmp_path / "output")
    path = tmp_path / "output" / "plan.json"
    _damage(path)
    for folder, roots in ((tmp_path / "output", []), (tmp_path / "new", [tmp_path / "output"])):
        with pytest.raises(DamagedDataError, match=f"^{path}: its content has hash"):
            earlier_plan(folder, roots)
        with pytest.raises(DamagedDataError, match=f"^{path}: its content has hash"):
            TeacherCache.open(folder, *roots)
    for seal in (tmp_path / "output" / "shards").glob("*.seal.json"):
        seal.write_text("{}")
    with pytest.raises(DamagedDataError, match=f"^{path}: its content has hash"):
        earlier_plan(tmp_path / "new", [tmp_path / "output"])


def test_a_root_with_nothing_but_another_cache_whose_plan_is_damaged(tmp_path: Path) -> None:
    """Whoever named it expects its shards, as where the plan is whole."""
    make_cache(tmp_path / "here")
    make_cache(tmp_path / "other", seed=1)
    _damage(tmp_path / "other" / "plan.json")
    with pytest.raises(DamagedDataError, match=f"^{tmp_path / 'other' / 'plan.json'}: its content has hash"):
        TeacherCache.open(tmp_path / "here", tmp_path / "other")


def test_a_plan_that_is_a_link_out_of_a_root_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    make_cache(tmp_path / "here")
    make_cache(tmp_path / "outside")
    (tmp_path / "mounted" / "deep").mkdir(parents=True)
    link = tmp_path / "mounted" / "deep" / "plan.json"
    link.symlink_to(tmp_path / "outside" / "plan.json")
    with pytest.raises(DamagedDataError, match=f"^{link}: is a symbolic link"):
        earlier_plan(tmp_path / "here", [tmp_path / "mounted"])


def _damage(path: Path) -> None:
    plan = json.loads(path.read_bytes())
    path.write_text(json.dumps(plan | {"sequences_digest": "0" * 32}), encoding="utf-8")


def test_seals_without_their_plan_are_not_planned_over(tmp_path: Path) -> None:
    make_cache(tmp_path)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(DamagedDataError, match=r"plan\.json it belongs to is gone.*--run-dir"):
        earlier_plan(tmp_path)


def test_sequences_and_tokenizer_come_from_the_first_folder_that_has_them(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "three")]
    plan, *_ = make_cache(tmp_path / "two")
    shutil.move(tmp_path / "two" / "sequences.shard", tmp_path / "whole")
    assert find_sequences(plan, folders) == tmp_path / "one" / "sequences.shard"
    shutil.copy(tmp_path / "whole", tmp_path / "two" / "sequences.shard")
    assert find_sequences(plan, folders) == tmp_path / "two" / "sequences.shard"
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "sequences.shard").write_bytes(b"damaged")
    assert find_sequences(plan, folders) == tmp_path / "two" / "sequences.shard"
    (tmp_path / "two" / "sequences.shard").write_bytes(b"damaged as well")
    assert find_sequences(plan, folders) == tmp_path / "one" / "sequences.shard"
    with pytest.raises(IncompleteInputError, match="expected the teacher's tokenizer"):
        find_tokenizer(folders)
    (tmp_path / "two" / "tokenizer").mkdir()
    assert find_tokenizer(folders) == tmp_path / "two" / "tokenizer"
