"""The log lines of a training, read as series."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipeline import files
from pipeline.evaluation.history import Curve, Standing, TrainingHistory, read_history, read_standing

TRAIN = [
    {"step": 1, "kind": "train", "ce": 5.0, "kd": None, "effective_draws": float("nan")},
    {"step": 2, "kind": "train", "ce": 4.0, "kd": 0.5},
]
VALIDATION = [
    {"step": 2, "kind": "validation", "weights": "raw", "ce": 4.5},
    {"step": 2, "kind": "validation", "weights": "ema", "ce": 4.25},
]


@pytest.fixture
def history(tmp_path: Path) -> TrainingHistory:
    metrics, timings = tmp_path / "metrics.jsonl", tmp_path / "timings.jsonl"
    metrics.write_text("".join(json.dumps(line) + "\n" for line in TRAIN + VALIDATION) + '{"step": 3, "kind')
    timings.write_text('{"step": 2, "tokens_per_second": 10.0}\n')
    found = read_history(metrics, timings)
    assert found is not None
    return found


def test_series_hold_the_steps_that_have_the_quantity(history: TrainingHistory) -> None:
    assert history.curve("ce") == Curve((1, 2), (5.0, 4.0))
    assert history.curve("kd") == Curve((2,), (0.5,))
    assert not history.curve("effective_draws")
    assert not history.curve("unheard of")
    assert history.timing("tokens_per_second") == Curve((2,), (10.0,))
    assert history.last_step == 2


def test_validation_is_told_apart_by_weights(history: TrainingHistory) -> None:
    assert history.validated("ce", "raw") == Curve((2,), (4.5,))
    assert history.best_validation() == Curve((2,), (4.25,))


def test_a_mean_of_timings_is_over_the_time_that_each_is_of() -> None:
    def mean(*laps: dict[str, Any]) -> float | None:
        return TrainingHistory((), (), laps).mean_timing("tokens_per_second")

    fast, slow = ({"tokens_per_second": rate, "seconds": 1000 / rate} for rate in (100.0, 10.0))
    assert mean(fast, slow) == pytest.approx(2000 / 110)  # 2,000 tokens in 110 s
    assert mean({"tokens_per_second": 100.0}, {"tokens_per_second": 10.0}) == 55  # lines of before
    assert mean(fast, slow | {"tokens_per_second": math.nan}) == 100
    assert mean(fast | {"seconds": "ten"}) == 100
    assert mean() is None


def test_curves_say_their_last_and_constancy() -> None:
    curve = Curve((1, 2), (1.0, 3.0))
    assert (curve.last, curve.is_constant()) == (3.0, False)
    assert Curve((1, 2), (1.0, 1.0)).is_constant()
    assert not Curve((), ())


def test_no_training_is_none(tmp_path: Path) -> None:
    assert read_history(tmp_path / "metrics.jsonl", tmp_path / "timings.jsonl") is None


def test_timings_may_be_absent(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 7, "kind": "train", "ce": 1.0}\n')
    found = read_history(tmp_path / "metrics.jsonl", tmp_path / "timings.jsonl")
    assert found is not None
    assert found.timings == ()
    assert not found.best_validation()


def test_a_training_stands_at_its_newest_finished_checkpoint(tmp_path: Path) -> None:
    assert read_standing(tmp_path) is None
    for step, names in ((9, ("state.json", "COMMIT.json")), (10, ("state.json", "COMMIT.json")), (11, ("state.json",))):
        for name in names:
            files.write_json(tmp_path / f"step-{step:08d}" / name, {"step": step, "training_hash": "ab"})
    assert read_standing(tmp_path) == Standing(10, "ab")
    (tmp_path / "step-00000010" / "state.json").write_text("{")
    assert read_standing(tmp_path) == Standing(9, "ab")


@pytest.mark.parametrize("frozen", [None, [[0, 2]]])
def test_a_training_on_some_shards_is_known_for_one(frozen: list[list[int]] | None, tmp_path: Path) -> None:
    state = {"step": 9, "training_hash": "ab", "training": {"frozen_shards": frozen}}
    for name in ("state.json", "COMMIT.json"):
        files.write_json(tmp_path / "step-00000009" / name, state)
    assert read_standing(tmp_path) == Standing(9, "ab", on_some_shards=frozen is not None)
