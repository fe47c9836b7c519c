"""The plan: shards without gaps, a hash that moves with everything, files that cannot be mistaken."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cache.layout import RecordLayout
from pipeline.cache.plan import Plan, ShardSpan, cut_shards, plan_differences
from pipeline.data.sequences import TRAIN, VALIDATION
from pipeline.errors import DamagedDataError, IdentityError, IncompleteInputError


def _plan(**changes: Any) -> Plan:
    plan = Plan(
        identity={"teacher": {"model": "a", "sha256": "00"}, "source": {"files": 3}},
        layout=RecordLayout(300, 32, 4),
        sequence_length=16,
        num_sequences=5,
        sequences_digest="ab" * 16,
        shards=(ShardSpan(0, 0, 2, TRAIN), ShardSpan(1, 2, 2, TRAIN), ShardSpan(2, 4, 1, VALIDATION)),
        capture={"batch_size": 2},
    )
    return replace(plan, **changes)


@given(
    num_train=st.integers(0, 60),
    num_validation=st.integers(0, 20),
    sequence_length=st.integers(1, 8),
    shard_positions=st.integers(1, 70),
)
def test_shards_hold_every_sequence_once_and_never_both_splits(
    num_train: int, num_validation: int, sequence_length: int, shard_positions: int
) -> None:
    split = np.array([TRAIN] * num_train + [VALIDATION] * num_validation, np.uint8)
    spans = cut_shards(split, sequence_length, shard_positions)
    covered = [(index, span.split) for span in spans for index in range(span.first, span.stop)]
    assert covered == list(enumerate(split.tolist()))
    assert [span.index for span in spans] == list(range(len(spans)))
    for part in (TRAIN, VALIDATION):
        sizes = [span.count for span in spans if span.split == part]
        assert not sizes or max(sizes) - min(sizes) <= 1
        assert not sizes or max(sizes) * sequence_length <= max(shard_positions, sequence_length)
        assert len(sizes) == -(-sum(sizes) // max(1, shard_positions // sequence_length))


def test_validation_before_training_is_refused() -> None:
    with pytest.raises(ValueError, match="before validation"):
        cut_shards(np.array([VALIDATION, TRAIN], np.uint8), 4, 8)


def test_save_and_load(tmp_path: Path) -> None:
    plan = _plan()
    plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded.hash == plan.hash
    assert (loaded.shards, loaded.layout, loaded.identity) == (plan.shards, plan.layout, plan.identity)
    assert (loaded.vocab_size, loaded.head_size, loaded.betas[-1]) == (300, 32, 1.0)
    assert [span.index for span in loaded.spans(TRAIN)] == [0, 1]
    assert [loaded.span_of(index).index for index in range(5)] == [0, 0, 1, 1, 2]
    for outside in (-1, 5):
        with pytest.raises(IndexError, match="cache of 5"):
            loaded.span_of(outside)


def test_the_hash_is_that_of_the_rest_of_the_file(tmp_path: Path) -> None:
    _plan().save(tmp_path / "plan.json")
    content = json.loads((tmp_path / "plan.json").read_text())
    named = content.pop("hash")
    assert named == hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": {"teacher": {"model": "b"}}},
        {"layout": RecordLayout(300, 32, 5)},
        {"sequence_length": 17},
        {"sequences_digest": "cd" * 16},
        {"shards": (ShardSpan(0, 0, 4, TRAIN), ShardSpan(1, 4, 1, VALIDATION))},
        {"capture": {"batch_size": 4}},
    ],
)
def test_everything_moves_the_hash_and_is_shown(changes: dict[str, Any]) -> None:
    assert _plan().hash == _plan().hash
    assert _plan(**changes).hash != _plan().hash
    assert plan_differences(_plan(), _plan(**changes))


def test_differences_name_the_key() -> None:
    other = _plan(identity={"teacher": {"model": "b", "sha256": "00"}, "source": {"files": 3}})
    assert plan_differences(_plan(), other) == ["  identity.teacher.model: 'a' -> 'b'"]
    assert plan_differences(_plan(), _plan()) == []


@pytest.mark.parametrize(
    "shards",
    [
        (),
        (ShardSpan(0, 0, 2, TRAIN),),
        (ShardSpan(0, 0, 2, TRAIN), ShardSpan(1, 3, 2, TRAIN)),
        (ShardSpan(1, 0, 5, TRAIN),),
        (ShardSpan(0, 0, 5, 2),),
        (ShardSpan(0, 0, 0, TRAIN), ShardSpan(1, 0, 5, TRAIN)),
    ],
)
def test_shards_with_gaps_are_refused(shards: tuple[ShardSpan, ...]) -> None:
    with pytest.raises(ValueError, match="plan: "):
        _plan(shards=shards)


def test_no_plan_is_incomplete_input(tmp_path: Path) -> None:
    with pytest.raises(IncompleteInputError, match=r"no plan.*cache-teacher"):
        Plan.load(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format": 3}, IdentityError, "cache format 3, this version reads up to 2"),
        ({"format": "1"}, DamagedDataError, "expected format 2"),
        ({"sequence_length": 17}, DamagedDataError, "its content has hash"),
        ({"hash": "0" * 64}, DamagedDataError, "it names 0000"),
        ({"num_sequences": 6}, DamagedDataError, "the shards hold 5 sequences"),
        ({"shards": [{"first": 0}]}, DamagedDataError, "is not a plan"),
        ({"shards": 3}, DamagedDataError, "is not a plan"),
        ({"layout": None}, DamagedDataError, "record layout"),
        ({"sequence_length": "16"}, DamagedDataError, "is not a plan"),
        ({"more": 1}, DamagedDataError, "expected format 2 with the fields"),
    ],
)
def test_a_plan_that_is_not_what_was_saved(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    path = tmp_path / "plan.json"
    _plan().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(error, match=message):
        Plan.load(path)
