"""Files of a cache that cannot be read now: they are no damage, nothing removes them, and it is said what to do."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import files
from pipeline.cache.plan import Plan
from pipeline.cache.repair import repair
from pipeline.cache.roots import earlier_plan, find_sealed, find_sequences
from pipeline.cache.teacher_cache import TeacherCache
from pipeline.cache.verify import verify_cache
from pipeline.data.report import DataReport
from pipeline.errors import DamagedDataError, StorageError
from tests.cache.dense import make_cache

SHARD, SEAL, SEQUENCES = "shards/00001.shard", "shards/00001.seal.json", "sequences.shard"
BY_HAND = r"remove .*/00001\.seal\.json and then .*/00001\.shard by hand, .* run `sad-pipeline cache-teacher`"


Refuse = Callable[[Path, int], None]


class _Sick(io.FileIO):
    """A file that can be opened, and whose bytes do not come."""

    number = 0

    def readinto(self, buffer: Any) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def read(self, size: int | None = -1) -> bytes:
        raise OSError(self.number, os.strerror(self.number))

    readall = read


@pytest.fixture(params=["asked about", "opened", "read"])
def refuse(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """What is refused: a look at the file, or to open it, or its bytes."""

    def refusing(place: Path, number: int) -> None:
        def instead_of(real: Callable[..., Any]) -> Callable[..., Any]:
            def called(path: Any, *arguments: Any, **named: Any) -> Any:
                if not isinstance(path, int) and Path(path) == place:
                    if request.param == "read":
                        file = _Sick(path)
                        file.number = number
                        return io.BufferedReader(file)
                    raise OSError(number, os.strerror(number), str(path))
                return real(path, *arguments, **named)

            return called

        if request.param == "asked about":
            monkeypatch.setattr(os, "stat", instead_of(os.stat))
            monkeypatch.setattr(os, "lstat", instead_of(os.lstat))
        else:
            monkeypatch.setattr("builtins.open", instead_of(open))
            monkeypatch.setattr(io, "open", instead_of(io.open))

    return refusing


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ETIMEDOUT])
@pytest.mark.parametrize("name", [SHARD, SEAL])
def test_repair_leaves_it_and_takes_what_is_damaged(name: str, number: int, refuse: Refuse, tmp_path: Path) -> None:
    """A disk that is away for a moment must not cost hours of good shards."""
    make_cache(tmp_path)
    damaged = tmp_path / "shards" / "00000.shard"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    before = {path.name for path in (tmp_path / "shards").iterdir()}
    refuse(tmp_path / name, number)
    problems = verify_cache(tmp_path)
    assert [(problem.path, problem.repairable) for problem in problems if problem.path != damaged] == [
        (tmp_path / name, False)
    ]
    [said] = [str(problem) for problem in problems if not problem.repairable]
    assert f"{name}: cannot be read now ({os.strerror(number)}), and may be whole. Run the same command again" in said
    with pytest.raises(AssertionError, match=BY_HAND):
        raise AssertionError(said)
    assert repair(tmp_path, problems) == [damaged]
    assert {path.name for path in (tmp_path / "shards").iterdir()} == before - {"00000.shard", "00000.seal.json"}


def test_nor_are_the_sequences_packed_again(refuse: Refuse, tmp_path: Path) -> None:
    plan, _, _ = make_cache(tmp_path)
    refuse(tmp_path / SEQUENCES, errno.ESTALE)
    with pytest.raises(StorageError, match=r"sequences\.shard: cannot be read now .*remove it by hand and run .*packs"):
        TeacherCache(plan, [tmp_path], {}).sequences.select(slice(0, 1))


def test_verify_names_them_among_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cache(tmp_path)
    real = files.digest_file

    def stale(path: Path) -> files.FileDigest:
        if path.name == SEQUENCES:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(path)

    monkeypatch.setattr(files, "digest_file", stale)
    [problem] = verify_cache(tmp_path)
    assert not problem.repairable
    assert str(problem).startswith(f"{tmp_path / SEQUENCES}: cannot be read now (Stale file handle), and may be whole.")


def test_nor_does_a_file_beside_the_shards_end_the_look_at_them(refuse: Refuse, tmp_path: Path) -> None:
    make_cache(tmp_path)
    report = tmp_path / "data_report.json"
    files.write_json(report, DataReport(documents_read=3).to_json())
    damaged = tmp_path / "shards" / "00000.shard"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    refuse(report, errno.EIO)
    problems = verify_cache(tmp_path, (), None, DataReport.load)
    assert {problem.path for problem in problems} == {report, damaged}
    assert "cannot be read now" in next(str(problem) for problem in problems if problem.path == report)


def test_of_several_copies_of_the_sequences_a_whole_one_is_not_passed_over(refuse: Refuse, tmp_path: Path) -> None:
    plan, _, _ = make_cache(tmp_path / "one")
    make_cache(tmp_path / "two")
    refuse(tmp_path / "one" / SEQUENCES, errno.EIO)
    with pytest.raises(StorageError, match=r"one/sequences\.shard: cannot be read now "):
        find_sequences(plan, [tmp_path / "one", tmp_path / "two"])


@pytest.mark.parametrize("name", [SHARD, SEAL])
def test_who_reads_records_is_told_the_same(name: str, refuse: Refuse, tmp_path: Path) -> None:
    plan, _, _ = make_cache(tmp_path)
    refuse(tmp_path / name, errno.ESTALE)
    with pytest.raises(StorageError, match=f"{name}: cannot be read now .*once it can be read; .*{BY_HAND}"):
        TeacherCache.open(tmp_path)[plan.shards[1].first]


@pytest.mark.parametrize("name", ["plan.json", SEAL])
def test_no_root_with_it_is_passed_over(name: str, refuse: Refuse, tmp_path: Path) -> None:
    """Its shards would be computed again."""
    plan, _, _ = make_cache(tmp_path / "mounted")
    make_cache(tmp_path / "own")
    refuse(tmp_path / "mounted" / name, errno.EACCES)
    with pytest.raises(StorageError, match=f"mounted/{name}: cannot be read now "):
        pending_besides(tmp_path / "own", plan, tmp_path / "mounted")


def pending_besides(own: Path, plan: Plan, mounted: Path) -> None:
    """What a capture looks for before it computes anything."""
    earlier_plan(own, [mounted])
    find_sealed(plan, [own, mounted])


def test_a_place_beyond_the_file_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system refuses that too, and it comes of the bytes."""
    plan, _, _ = make_cache(tmp_path)

    def beyond(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr("pipeline.cache.shard._stored", beyond)
    with pytest.raises(DamagedDataError, match=r"damaged at array .*Invalid argument"):
        TeacherCache.open(tmp_path).facts(plan.shards[1])
