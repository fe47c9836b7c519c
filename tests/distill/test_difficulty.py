"""Difficulties of sequences: the means they say they are, measured once, kept, and mistrusted where damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline import files
from pipeline.cache import TeacherCache
from pipeline.data.sequences import TRAIN
from pipeline.distill.batching import difficulty as difficulty_module
from pipeline.distill.batching.curriculum import LevelOrder, WeightedOrder, in_curriculum
from pipeline.distill.batching.difficulty import difficulties
from pipeline.distill.batching.lessons import plan_lessons
from pipeline.distill.batching.order import DataOrder
from pipeline.distill.settings import TrainSettings
from pipeline.models import CausalModel
from pipeline.pause import PausedError, PauseRequest
from tests import tiny
from tests.evaluation.caches import NUM_TRAIN, make_cache


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> TeacherCache:
    return make_cache(tmp_path_factory.mktemp("cache"), CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the shards that were read."""
    found: list[int] = []
    real = difficulty_module.measure_shard

    def counted(cache: TeacherCache, span: object) -> object:
        found.append(span.index)  # type: ignore[attr-defined]
        return real(cache, span)  # type: ignore[arg-type]

    monkeypatch.setattr(difficulty_module, "measure_shard", counted)
    return found


def train_spans(cache: TeacherCache) -> list[object]:
    return [span for span in cache.sealed if span.split == TRAIN]


def measure(cache: TeacherCache, folder: Path, what: str = "entropy") -> np.ndarray:
    return difficulties(cache, train_spans(cache), what, folder, PauseRequest())  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["entropy", "surprise"])
def test_they_are_means_over_scored_positions(cache: TeacherCache, tmp_path: Path, what: str) -> None:
    found = measure(cache, tmp_path, what)
    assert found.shape == (NUM_TRAIN,)
    for index, value in enumerate(found):
        one = cache[index]
        facts = one.records.entropies_T if what == "entropy" else -one.records.label_logprobs_T
        assert value == pytest.approx(facts[one.loss_mask_T].astype(np.float64).mean(), rel=1e-12)
    assert len(set(found.tolist())) > NUM_TRAIN // 2


def test_a_shard_is_read_once_for_both_measures(cache: TeacherCache, tmp_path: Path, measured: list[int]) -> None:
    first = measure(cache, tmp_path)
    assert measured == [span.index for span in train_spans(cache)]  # type: ignore[attr-defined]
    assert np.array_equal(measure(cache, tmp_path), first)
    measure(cache, tmp_path, "surprise")
    assert len(measured) == len(train_spans(cache))


@pytest.mark.parametrize("damage", ["digit", "cut", "plan", "plan and digest", "nothing"])
def test_what_cannot_be_trusted_is_measured_again(
    cache: TeacherCache, tmp_path: Path, measured: list[int], damage: str
) -> None:
    first = measure(cache, tmp_path)
    path = sorted(tmp_path.glob("*.json"))[-1]
    text = path.read_text(encoding="utf-8")
    if damage == "digit":
        value = json.loads(text)
        value["entropy"][0] += 1e-3
        path.write_text(json.dumps(value), encoding="utf-8")
    elif damage == "cut":
        path.write_text(text[:-20], encoding="utf-8")
    elif damage == "plan":
        path.write_text(text.replace(cache.plan.hash, "0" * 64), encoding="utf-8")
    elif damage == "plan and digest":  # whole, and of another cache
        value = json.loads(text) | {"plan_hash": "0" * 64}
        del value["digest"]
        files.write_json(path, value | {"digest": files.digest_json(value)})
    measured.clear()
    assert np.array_equal(measure(cache, tmp_path), first)
    assert measured == ([] if damage == "nothing" else [int(path.stem)])
    assert path.read_text(encoding="utf-8") == text


def test_a_pause_keeps_what_was_measured(cache: TeacherCache, tmp_path: Path, measured: list[int]) -> None:
    with pytest.raises(PausedError, match="the time budget is spent"):
        difficulties(cache, train_spans(cache), "entropy", tmp_path, PauseRequest(0))  # type: ignore[arg-type]
    assert len(list(tmp_path.glob("*.json"))) == 1  # a budget that is spent at once: still one shard a start
    measured.clear()
    measure(cache, tmp_path)
    assert len(measured) == len(train_spans(cache)) - 1


# ------------------------------------------------------------------ the lessons they make


def planned(cache: TeacherCache, folder: Path, frozen: list[int] | None = None, **values: object) -> DataOrder:
    settings = TrainSettings.model_validate({"epochs": 1, "batch_size": 1, "warmup_steps": 0} | values)
    return in_curriculum(plan_lessons(cache, settings, frozen), settings, folder, PauseRequest()).order


def stream(order: DataOrder) -> list[int]:
    return np.concatenate([order.sequences_for_step(step) for step in range(order.num_sequences)]).tolist()


def test_as_many_levels_as_sequences_are_a_sort(cache: TeacherCache, tmp_path: Path) -> None:
    nats = measure(cache, tmp_path, "surprise")
    values = {"curriculum_levels": NUM_TRAIN, "difficulty": "surprise"}
    easy = stream(planned(cache, tmp_path, data_order="easy_first", **values))
    hard = stream(planned(cache, tmp_path, data_order="hard_first", **values))
    assert easy == np.argsort(nats).tolist()
    assert hard == easy[::-1]


def test_the_shuffled_order_reads_nothing(cache: TeacherCache, tmp_path: Path, measured: list[int]) -> None:
    plain = plan_lessons(cache, TrainSettings(epochs=1, batch_size=1, warmup_steps=0), None).order
    assert stream(planned(cache, tmp_path)) == stream(plain)
    assert (measured, list(tmp_path.iterdir())) == ([], [])


def test_only_the_shards_a_training_is_frozen_to_are_measured(
    cache: TeacherCache, tmp_path: Path, measured: list[int]
) -> None:
    spans = cache.sealed
    train = [span for span in spans if span.split == TRAIN]
    frozen = [span.index for span in spans if span.index != train[0].index]
    order = planned(cache, tmp_path, frozen, data_order="weighted", hard_share=0.1)
    assert measured == [span.index for span in train[1:]]
    assert set(stream(order)) <= set(range(train[1].first, train[-1].stop))


def test_what_a_curriculum_is_made_of_are_the_settings(cache: TeacherCache, tmp_path: Path) -> None:
    values = {"batch_size": 2, "seed": 7, "window_shards": 2}
    plain = plan_lessons(cache, TrainSettings.model_validate(values | {"epochs": 1, "warmup_steps": 0}), None).order
    places = (plain.spans, 7, 2, 2, measure(cache, tmp_path))
    levels = {"data_order": "easy_first", "curriculum_levels": 3, "curriculum_epochs": 2}
    found = stream(planned(cache, tmp_path, **levels, **values))
    assert found == stream(LevelOrder(*places, 3, 2, False))
    assert found != stream(LevelOrder(*places, 3, 1, False)), "it tells them apart"
    weighted = planned(cache, tmp_path, data_order="weighted", hard_share=0.9, **values)
    assert isinstance(weighted, WeightedOrder)
    ends = [order._ends_S.tolist() for order in (weighted, WeightedOrder(*places, 0.9), WeightedOrder(*places, 0.1))]
    assert ends[0] == ends[1] != ends[2], "difficulties here are nearly alike, and so are the orders"


def test_a_training_that_never_meets_the_rest_says_so(
    cache: TeacherCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"steps": 3, "epochs": None}
    planned(cache, tmp_path, data_order="easy_first", **values)
    assert "ends after 50% of its first epoch: the hardest sequences are never learned from" in capsys.readouterr().err
    planned(cache, tmp_path, data_order="weighted", **values)
    assert "first epoch" not in capsys.readouterr().err
