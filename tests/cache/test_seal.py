"""Seals: read back as written, and refused where they are not of the shard or the plan they lie beside."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cache.seal import Seal
from pipeline.errors import DamagedDataError, IdentityError
from tests.cache.dense import make_cache


@pytest.fixture
def seal_path(tmp_path: Path) -> Path:
    make_cache(tmp_path)
    return tmp_path / "shards" / "00001.seal.json"


def test_read_back_as_written(seal_path: Path) -> None:
    seal = Seal.load(seal_path)
    assert (seal.shard, seal.first, seal.count, seal.num_positions) == ("00001.shard", 2, 2, 32)
    before = seal_path.read_bytes()
    seal.save(seal_path)
    assert seal_path.read_bytes() == before


def test_no_clock_and_no_place_in_it(seal_path: Path, tmp_path: Path) -> None:
    make_cache(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "shards" / seal_path.name).read_bytes() == seal_path.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 0}, "format is 0"),
        ({"size_bytes": -1}, "size_bytes must be a count"),
        ({"first": True}, "first must be a count"),
        ({"xxh3_128": 5}, "must be texts"),
        ({"statistics": []}, "must be objects"),
        ({"more": 1}, "expected the fields"),
        ({"num_scored": 3}, "does not have the digest"),
        ({"environment": {}}, "does not have the digest"),
        ({"digest": None}, "does not have the digest"),
        ({"shard": "../../etc/passwd"}, "it speaks of"),
        ({"shard": "00002.shard"}, "it speaks of '00002.shard'"),
    ],
)
def test_damaged_seals(seal_path: Path, change: dict[str, Any], message: str) -> None:
    seal_path.write_text(json.dumps(json.loads(seal_path.read_text()) | change))
    with pytest.raises(DamagedDataError, match=message):
        Seal.load(seal_path)


def test_a_seal_under_the_name_of_another(seal_path: Path) -> None:
    other = seal_path.with_name("00000.seal.json")
    other.write_bytes(seal_path.read_bytes())
    with pytest.raises(DamagedDataError, match=r"it speaks of '00001\.shard'"):
        Seal.load(other)


def test_a_newer_seal_asks_for_a_newer_version(seal_path: Path) -> None:
    seal_path.write_text(json.dumps(json.loads(seal_path.read_text()) | {"format": 2}))
    with pytest.raises(IdentityError, match="seal format 2"):
        Seal.load(seal_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": NaN}', b'{"a": 1, "a": 1}', b"\xff"])
def test_no_json_at_all(seal_path: Path, content: bytes) -> None:
    seal_path.write_bytes(content)
    with pytest.raises(DamagedDataError, match=r"00001\.seal\.json"):
        Seal.load(seal_path)


def test_a_seal_of_another_plan_or_span(tmp_path: Path) -> None:
    plan, _, _ = make_cache(tmp_path / "one")
    other, _, _ = make_cache(tmp_path / "other", num_train=7)
    path = tmp_path / "one" / "shards" / "00002.seal.json"
    seal = Seal.load(path)
    assert seal.check_against(plan, path) == plan.shards[2]
    with pytest.raises(IdentityError, match="belongs to the cache with plan"):
        seal.check_against(other, path)
    replace(seal, first=3).save(path)
    with pytest.raises(DamagedDataError, match=r"the plan has no shard '00002\.shard' of sequences 3 to"):
        Seal.load(path).check_against(plan, path)
