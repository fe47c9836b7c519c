"""A shard that is scored ahead of its packing, as on a card: the same bytes, the same end."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cache import TeacherCache
from pipeline.cache.plan import SHARDS_FOLDER
from pipeline.cache.writer import CacheWriter
from pipeline.errors import NumericsError
from pipeline.models import CausalModel, Teacher, shard_scorer
from pipeline.models.shard_scorer import ShardScorer
from pipeline.pause import PausedError, PauseRequest
from tests import tiny
from tests.evaluation.caches import LENGTH, make_cache


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> TeacherCache:
    """What a teacher's shards are to be."""
    return make_cache(tmp_path_factory.mktemp("cache"), CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE))


@pytest.fixture
def scored_on(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads on which batches are scored, once the teacher is taken to be on a card."""
    threads: list[str] = []
    real = Teacher.score

    def noted(*args: Any) -> Any:
        threads.append(threading.current_thread().name)
        return real(*args)

    monkeypatch.setattr(Teacher, "score", noted)
    monkeypatch.setattr(Teacher, "device", property(lambda _: torch.device("cuda", 0)))
    monkeypatch.setattr(shard_scorer, "on_its_card", lambda _: None)
    return threads


def scorer_into(folder: Path, cache: TeacherCache) -> ShardScorer:
    causal, plan = CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE), cache.plan
    teacher = Teacher(causal, plan.layout, seed=0, batch_size=2, chunk_positions=16)
    return ShardScorer(plan, cache.sequences, teacher, CacheWriter(folder, plan, cache.sequences, {"torch": "2"}))


def test_it_holds_the_same_bytes(cache: TeacherCache, scored_on: list[str], tmp_path: Path) -> None:
    scorer, tokens = scorer_into(tmp_path, cache), list[int]()
    for span in cache.plan.shards:
        scorer.seal(span, PauseRequest(), tokens.append)
        names = (f"{SHARDS_FOLDER}/{span.shard_name}", f"{SHARDS_FOLDER}/{span.seal_name}")
        for name in names:
            assert (tmp_path / name).read_bytes() == (cache.folders[0] / name).read_bytes(), name
    assert set(scored_on) == {"scorer"}
    assert sum(tokens) == cache.plan.num_sequences * LENGTH


def test_a_pause_or_a_row_that_overflows_ends_it_with_nothing_left(
    cache: TeacherCache, scored_on: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, span = scorer_into(tmp_path, cache), cache.plan.shards[0]
    with pytest.raises(PausedError, match="the time budget is spent"):
        scorer.seal(span, PauseRequest(time_budget_seconds=1e-9), lambda _: None)
    assert scored_on == []
    with torch.no_grad():
        scorer.teacher.model.head.weight_VD.fill_(torch.inf)
    with pytest.raises(NumericsError, match="positions, such as"):
        scorer.seal(span, PauseRequest(), lambda _: None)
    assert list((tmp_path / SHARDS_FOLDER).iterdir()) == []
    assert [thread for thread in threading.enumerate() if thread.name == "scorer"] == []


def test_on_a_cpu_a_batch_is_scored_where_it_is_asked_for(cache: TeacherCache, tmp_path: Path) -> None:
    scorer = scorer_into(tmp_path, cache)
    here = threading.get_ident()
    seen: list[bool] = []
    scorer.seal(cache.plan.shards[0], PauseRequest(), lambda _: seen.append(threading.get_ident() == here))
    assert seen == [True, True]
