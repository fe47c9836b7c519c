"""What a checkpoint says of its training, and what of it decides whether it is this one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.cache import Plan
from pipeline.distill.keeping.identity import frozen_to, identity_in, is_of, schedule_identity, shards_in
from pipeline.distill.settings import TrainSettings
from pipeline.models import CausalModel
from tests import tiny
from tests.evaluation.caches import make_cache
from tests.reliability.orders import MOST_STATE_BYTES

TRAIN = TrainSettings(steps=10)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "cache").mkdir()
    return make_cache(tmp_path / "cache", CausalModel(tiny.make_model(), tiny.VOCAB_SIZE)).plan


def test_a_key_that_has_become_free_makes_no_other_training(plan: Plan) -> None:
    own = schedule_identity(plan, TRAIN)
    assert "gradient_checkpointing" not in own["train"]
    older = own | {"train": own["train"] | {"gradient_checkpointing": True, "chunk_positions": 512}}
    assert identity_in({"training": older}) == own
    assert is_of({"training": older | {"student": {"seed": 0}}}, own)


@pytest.mark.parametrize("changed", [{"steps": 11}, {"temperature.end": 2.0}, {"never_heard_of": 1}])
def test_every_other_key_does(plan: Plan, changed: dict[str, object]) -> None:
    own = schedule_identity(plan, TRAIN)
    other = {"training": own | {"train": own["train"] | changed}}
    assert identity_in(other) != own
    assert not is_of(other, own)


@pytest.mark.parametrize("state", [{}, {"training": None}, {"training": []}, {"training": {"train": 3}}])
def test_what_is_no_identity_is_of_no_training(plan: Plan, state: dict[str, object]) -> None:
    assert not is_of(state, schedule_identity(plan, TRAIN))


def test_shards_in_few_numbers() -> None:
    assert frozen_to([5, 3, 4, 9, 0]) == [[0, 0], [3, 5], [9, 9]]
    assert shards_in([[0, 0], [3, 5], [9, 9]]) == [0, 3, 4, 5, 9]
    assert shards_in([0, 2, 3]) == [0, 2, 3]
    assert frozen_to([]) == []


def test_a_thousand_shards_with_gaps_stay_far_under_what_a_resume_may_take() -> None:
    sealed = [index for index in range(1000) if index % 53]
    assert shards_in(frozen_to(sealed)) == sealed
    assert len(json.dumps(frozen_to(sealed))) < MOST_STATE_BYTES / 3
