"""verify sees every wrong byte; repair removes what cache-teacher then computes again."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import files
from pipeline.cache import TeacherCache
from pipeline.cache.codec import codec_of
from pipeline.cache.plan import Plan
from pipeline.cache.repair import repair
from pipeline.cache.seal import Seal
from pipeline.cache.shard import write_shard
from pipeline.cache.verify import Problem, verify_cache
from pipeline.cache.writer import CacheWriter, shard_attributes
from pipeline.data.planned_tokenizer import planned_tokenizer, publish_tokenizer
from pipeline.data.tokenizer import Tokenizer
from pipeline.errors import IncompleteInputError, StorageError
from pipeline.refusals import reading_errors
from tests import tiny
from tests.cache.dense import ENVIRONMENT, make_cache, write_shards


def _words(problems: list[Problem]) -> str:
    return "\n".join(map(str, problems))


def test_a_good_cache_has_no_problem(tmp_path: Path) -> None:
    make_cache(tmp_path)
    (tmp_path / "data_report.json").write_text("{}")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    assert verify_cache(tmp_path) == []


def test_every_single_byte_matters(tmp_path: Path) -> None:
    """A flipped bit anywhere in plan, sequences, shards or seals: verify names the file."""
    make_cache(tmp_path, num_train=2, num_validation=1)
    chooser = random.Random(0)
    for path in [tmp_path / "plan.json", tmp_path / "sequences.shard", *sorted((tmp_path / "shards").iterdir())]:
        whole = path.read_bytes()
        for place in chooser.sample(range(8 * len(whole)), 12):
            data = bytearray(whole)
            data[place // 8] ^= 1 << place % 8
            path.write_bytes(data)
            assert path.name in _words(verify_cache(tmp_path)), f"{path.name} bit {place}"
        path.write_bytes(whole)
    assert verify_cache(tmp_path) == []


def test_damage_is_found_removed_and_made_again(tmp_path: Path) -> None:
    plan, sequences, records = make_cache(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()}
    shards = [tmp_path / "shards" / span.shard_name for span in plan.shards]
    data = bytearray(shards[0].read_bytes())
    data[len(data) // 2] ^= 1
    shards[0].write_bytes(data)
    shards[1].with_name("00001.seal.json").write_text("{}")
    shards[2].unlink()

    problems = verify_cache(tmp_path)
    assert {problem.path.name for problem in problems} == {"00000.shard", "00001.seal.json", "00002.shard"}
    assert all(problem.repairable and "sad-pipeline repair" in str(problem) for problem in problems)
    assert repair(tmp_path, problems) == shards[:3]
    assert verify_cache(tmp_path) == []
    assert [span.index for span in TeacherCache.open(tmp_path).missing] == [0, 1, 2]
    write_shards(tmp_path, plan, sequences, records)
    assert {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()} == before


@pytest.mark.parametrize("place", ["shards/00000.shard", "sequences.shard"])
@pytest.mark.parametrize("owner", [files, zipfile], ids=["hashed", "read"])
def test_too_many_open_files_are_no_damage(
    tmp_path: Path, owner: Any, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or `repair` would remove every good shard."""
    make_cache(tmp_path)
    name = {files: "digest_file", zipfile: "ZipFile"}[owner]
    real = getattr(owner, name)

    def refused(path: Path) -> Any:
        return refuse(path) if path == tmp_path / place else real(path)

    monkeypatch.setattr(owner, name, refused)
    with pytest.raises(StorageError, match="too many files are open"):
        verify_cache(tmp_path)


def refuse(path: Path) -> None:
    """As the system does where a process has no room for another open file."""
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))


def test_too_many_open_files_are_no_other_tokenizer(tmp_path: Path) -> None:
    make_cache(tmp_path)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")

    def read_tokenizer(folder: Path, _: dict[str, Any]) -> None:
        with reading_errors(folder):
            refuse(folder / "tokenizer.json")

    with pytest.raises(StorageError, match="too many files are open"):
        verify_cache(tmp_path, read_tokenizer=read_tokenizer)


def test_a_damaged_tokenizer_is_told_with_one_fix(tmp_path: Path) -> None:
    """Changed since it was written, unreadable, or another one; and where there is none, as where it was made."""
    cache, folder = tmp_path / "cache", tmp_path / "cache" / "tokenizer"
    make_cache(cache)
    publish_tokenizer(Tokenizer.load(tiny.save_tokenizer(tmp_path / "own")), folder)
    path, mended = folder / "tokenizer.json", "Remove this folder and run `sad-pipeline cache-teacher`"
    whole, said = path.read_bytes(), []
    for content, committed in ((whole[:-9], True), (whole[:-9], False), (whole, False)):
        path.write_bytes(content)
        if not committed:
            path.with_name("COMMIT.json").unlink(missing_ok=True)
        said += map(str, verify_cache(cache, read_tokenizer=planned_tokenizer))
    kinds = ("/tokenizer: tokenizer.json: size or xxh3", "the tokenizer cannot be read. ", "is not the tokenizer this")
    for message, kind in zip(said, kinds, strict=True):
        assert kind in message
        assert message.endswith(f". {mended}, which writes it again from the teacher's")
        assert (message.count("cache-teacher"), ".." in message) == (1, False)
    shutil.rmtree(folder)
    [message] = map(str, verify_cache(cache, read_tokenizer=planned_tokenizer))
    assert message.endswith("in a folder named tokenizer. Copy it there from the cache it was made with")


def test_a_seal_that_lies_about_its_shard(tmp_path: Path) -> None:
    make_cache(tmp_path)
    path = tmp_path / "shards" / "00000.seal.json"
    replace(Seal.load(path), xxh3_128="0" * 32).save(path)
    assert "its seal names 00000000" in _words(verify_cache(tmp_path))


def _reseal(folder: Path, plan: Plan, index: int, values: dict[str, np.ndarray]) -> None:
    """Write a shard that is sound as a file, with a fitting seal, and other content."""
    span = plan.shards[index]
    path = folder / "shards" / span.shard_name
    digest = write_shard(path, codec_of(plan).schema(span.count), shard_attributes(plan, span), [values])
    seal_path = path.with_name(span.seal_name)
    replace(Seal.load(seal_path), size_bytes=digest.size_bytes, xxh3_128=digest.xxh3_128).save(seal_path)


@pytest.mark.parametrize(
    ("fills", "message"),
    [
        ({}, "head ids must ascend"),
        ({"ids": 1}, "positions outside the loss mask are not blank"),
        ({"ids": 60}, "an id is .*, outside the vocabulary of 50"),
        ({"columns": 1}, "a row's step has a number outside"),
        ({"values": 255}, "a value has the code"),
    ],
)
def test_content_no_teacher_writes(tmp_path: Path, fills: dict[str, int], message: str) -> None:
    plan, _, _ = make_cache(tmp_path)
    schema = codec_of(plan).schema(plan.shards[1].count)
    arrays = {array.name: np.full(array.shape, fills.get(array.name, 0), array.dtype) for array in schema}
    _reseal(tmp_path, plan, 1, arrays)
    problems = verify_cache(tmp_path)
    assert {problem.path.name for problem in problems} == {"00001.shard"}
    assert re.search(message, _words(problems))


def test_copies_that_differ_are_listed(tmp_path: Path) -> None:
    plan, sequences, records = make_cache(tmp_path / "one")
    make_cache(tmp_path / "two")
    assert verify_cache(tmp_path / "one", [tmp_path / "two"]) == []
    shutil.rmtree(tmp_path / "two" / "shards")
    records.logprobs_TK[:] -= 1
    writer = CacheWriter(tmp_path / "two", plan, sequences, ENVIRONMENT | {"device": "elsewhere"})
    writer.write(plan.shards[1], records.rows(slice(plan.shards[1].first * 16, plan.shards[1].stop * 16)))
    problems = verify_cache(tmp_path / "one", [tmp_path / "two"])
    assert len(problems) == 1
    assert "made in another environment" in str(problems[0])
    assert repair(tmp_path, problems) == []


def test_seals_of_another_plan_are_said_and_kept(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache")
    make_cache(tmp_path / "other", seed=1)
    for name in ("00000.shard", "00000.seal.json"):
        shutil.copy(tmp_path / "other" / "shards" / name, tmp_path / "cache" / "shards" / name)
    problems = verify_cache(tmp_path / "cache")
    assert "belongs to the cache with plan" in _words(problems)
    assert repair(tmp_path / "cache", problems) == []
    assert (tmp_path / "cache" / "shards" / "00000.seal.json").is_file()


def test_unknown_files_are_said_and_kept(tmp_path: Path) -> None:
    make_cache(tmp_path)
    (tmp_path / "shards" / "99999.shard").write_bytes(b"?")
    (tmp_path / "notes.txt").write_text("?")
    problems = verify_cache(tmp_path)
    assert {problem.path.name for problem in problems} == {"99999.shard", "notes.txt"}
    assert repair(tmp_path, problems) == []


def test_a_shard_without_a_seal_is_absent_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_cache(tmp_path)
    (tmp_path / "shards" / "00001.seal.json").unlink()
    assert verify_cache(tmp_path) == []
    assert "00001.shard: has no seal" in capsys.readouterr().err


def test_damage_in_a_read_only_root_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_cache(tmp_path / "mounted")
    path = tmp_path / "mounted" / "shards" / "00000.shard"
    path.write_bytes(path.read_bytes()[:-1])
    (tmp_path / "run").mkdir()
    problems = verify_cache(tmp_path / "run", [tmp_path / "mounted"])
    assert [problem.path for problem in problems] == [path]
    assert repair(tmp_path / "run", problems) == []
    assert path.is_file()
    assert "left alone" in capsys.readouterr().err


def test_without_a_plan_that_is_all_there_is_to_say(tmp_path: Path) -> None:
    with pytest.raises(IncompleteInputError, match=r"no cache here \(looked for plan\.json"):
        verify_cache(tmp_path)
    make_cache(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    assert "is not a plan" in _words(verify_cache(tmp_path))
