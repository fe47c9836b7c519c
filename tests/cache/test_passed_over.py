"""Damaged copies in folders that are only read: listed by their bytes, and absent from then on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline import console
from pipeline.cache.passed_over import PASSED_OVER_NAME, is_passed_over, pass_over, read_passed_over
from pipeline.cache.plan import Plan
from pipeline.cache.repair import repair
from pipeline.cache.roots import find_sealed
from pipeline.cache.teacher_cache import TeacherCache
from pipeline.cache.verify import verify_cache
from tests.cache.dense import make_cache


def harm(path: Path) -> None:
    """One bit, in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """A cache whose first shard is damaged, as an earlier session's output may be."""
    make_cache(tmp_path / "mounted")
    shutil.copytree(tmp_path / "mounted", tmp_path / "good")
    harm(tmp_path / "mounted" / "shards" / "00000.shard")
    return tmp_path / "mounted"


def sealed(*roots: Path) -> dict[int, Path]:
    """Index -> the copy that is read."""
    plan = Plan.load(roots[-1] / "plan.json")
    return {index: copies[0].path for index, copies in find_sealed(plan, roots).items()}


def test_a_listed_copy_is_absent_wherever_it_is_mounted(mounted: Path, tmp_path: Path) -> None:
    own = tmp_path / "run" / "cache"
    own.mkdir(parents=True)
    every = sealed(own, mounted)
    problems = verify_cache(own, [mounted])
    assert repair(tmp_path / "run", problems, own) == [mounted / "shards" / "00000.shard"]
    assert (mounted / "shards" / "00000.shard").is_file()
    assert (mounted / "shards" / "00000.seal.json").is_file()
    assert sealed(own, mounted).keys() == every.keys() - {0}
    assert verify_cache(own, [mounted]) == [], "it is said, and is no problem any more"

    elsewhere = mounted.rename(tmp_path / "at another place")
    later = tmp_path / "later"
    later.mkdir()
    assert sealed(later, own, elsewhere).keys() == every.keys() - {0}, "a later session, that is given both"
    good = tmp_path / "good"
    assert sealed(later, own, elsewhere, good)[0] == good / "shards" / "00000.shard"


def test_a_copy_in_the_own_folder_counts(mounted: Path, tmp_path: Path) -> None:
    own = tmp_path / "run" / "cache"
    shutil.copytree(tmp_path / "good", own)
    repair(tmp_path / "run", verify_cache(own, [mounted]), own)
    assert sealed(own, mounted)[0] == own / "shards" / "00000.shard"
    with TeacherCache.open(own, mounted) as cache:
        assert cache.complete


def test_what_has_the_bytes_that_its_seal_names_is_never_listed(tmp_path: Path) -> None:
    """Of other sequences, say: computed again it might have the same bytes, and would then be passed over, too."""
    make_cache(tmp_path / "mounted")
    own = tmp_path / "run" / "cache"
    own.mkdir(parents=True)
    assert verify_cache(own, [tmp_path / "mounted"]) == []
    harm(tmp_path / "mounted" / "shards" / "00000.seal.json")
    problems = verify_cache(own, [tmp_path / "mounted"])
    assert problems
    assert repair(tmp_path / "run", problems, own) == []
    assert not list(own.rglob(PASSED_OVER_NAME))


def test_lists_add_up(tmp_path: Path) -> None:
    first, second = tmp_path / "00001.shard", tmp_path / "00002.shard"
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    path = pass_over(tmp_path, [first])
    assert pass_over(tmp_path, [second]) == path
    listed = read_passed_over([path])
    assert listed.keys() == {"00001.shard", "00002.shard"}
    assert is_passed_over(first, listed)
    first.write_bytes(b"other bytes: another copy")
    assert not is_passed_over(first, listed)
    assert not is_passed_over(tmp_path / "00003.shard", listed), "one that is not listed is not even read"


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 2, "shards": {}}', '{"format": 1, "shards": {"a": ["../b"]}}', "{" * 9999]
)
def test_a_list_that_is_damaged_says_nothing(
    content: str, mounted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console._said.clear()
    own = tmp_path / "own"
    own.mkdir()
    (own / PASSED_OVER_NAME).write_text(content)
    assert sealed(own, mounted)[0] == mounted / "shards" / "00000.shard"
    assert str(own / PASSED_OVER_NAME) in capsys.readouterr().err
