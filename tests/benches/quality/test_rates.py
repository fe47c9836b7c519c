"""bench quality at toy size: at which learning rate each arm is measured, and full distillation at which weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.benches.quality import plan
from pipeline.benches.quality.arms import FULL_CANDIDATES
from pipeline.benches.quality.plan import MOST_BEYOND, SHORTLIST, Trial
from stages import bench_quality
from stages.quality_trainings import Ground, train
from tests.benches.quality.toy_study import ARMS, MARKS, MIDDLE_RATE, Study, quality, read, step_of
from tests.stages.toys import copy

pytestmark = MARKS


def test_each_arm_is_at_the_rate_that_is_best_for_its_seeds(study: Study) -> None:
    root, _ = study
    [described] = read(root / "quality.json")["studies"]
    trainings = root / "v320" / "trainings"
    for finding in described["findings"]:
        prefix = f"{finding['candidate']}-" if finding["candidate"] else ""
        rates = {
            float(path.name.partition("-rate")[2].rpartition("-seed")[0]): [
                read(path.with_name(f"{path.name[:-1]}{seed}") / "chosen.json")["validation_ce_nats"] for seed in (0, 1)
            ]
            for path in (trainings / finding["arm"]).glob(f"{prefix}3steps-rate*-seed0")
        }
        steps = [step_of(rate) for rate in sorted(rates)]
        assert steps == list(range(steps[0], steps[-1] + 1))
        assert {-1, 0, 1} <= set(steps)
        best = min(rates, key=lambda rate: sum(rates[rate]))
        assert finding["learning_rate"] == pytest.approx(best, rel=1e-5)
        assert finding["at_an_edge"] == (best in (min(rates), max(rates)))
        assert not finding["at_an_edge"] or len(steps) == 3 + MOST_BEYOND


def test_a_rate_that_seed_0_alone_prefers_is_not_taken(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = copy(study[0].parent, tmp_path / "run")

    def shaped(ground: Ground, trial: Trial) -> float:
        ce_nats, step = train(ground, trial), step_of(trial.learning_rate)
        return ce_nats if trial.arm.name != "tau2" else (abs(step), 3 * abs(step - 1))[trial.seed]

    monkeypatch.setattr(bench_quality, "train", shaped)
    assert quality(run_dir, *ARMS).code == 0
    found = tau2_of(run_dir)
    assert (step_of(found["learning_rate"]), found["at_an_edge"]) == (1, False)


def test_a_rate_that_another_seed_does_not_survive_is_passed_over(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = copy(study[0].parent, tmp_path / "run")
    before = tau2_of(run_dir)
    scores: dict[float, float] = {}

    def fragile(ground: Ground, trial: Trial) -> float:
        ce_nats = train(ground, trial)
        if trial.arm.name != "tau2":
            return ce_nats
        if trial.seed == 0:
            scores[trial.learning_rate] = ce_nats
        at_best = trial.learning_rate == min(scores, key=lambda rate: scores[rate])
        return math.inf if trial.seed == 1 and at_best else ce_nats

    monkeypatch.setattr(bench_quality, "train", fragile)
    monkeypatch.setattr(plan, "CHOOSING_SEEDS", 1)  # so that seed 1 chooses nothing
    ended = quality(run_dir, *ARMS)
    assert ended.code == 0, ended.stderr
    assert "another seed diverged at this rate" in ended.stderr
    after = tau2_of(run_dir)
    assert after["learning_rate"] == pytest.approx(sorted(scores, key=lambda rate: scores[rate])[1])
    assert after["students"].keys() == before["students"].keys()


def tau2_of(run_dir: Path) -> dict[str, Any]:
    """What a study found of that arm."""
    [described] = read(run_dir / "quality" / "quality.json")["studies"]
    [found] = [finding for finding in described["findings"] if finding["arm"] == "tau2"]
    return dict(found)


def test_full_distillation_is_at_its_best_temperature_and_weights(study: Study) -> None:
    root, _ = study
    [described] = read(root / "quality.json")["studies"]
    [full] = [finding for finding in described["findings"] if finding["arm"] == "full"]
    tried: dict[str, dict[int, float]] = {}
    for path in (root / "v320" / "trainings" / "full").glob(f"*-rate{MIDDLE_RATE:g}-seed*"):
        of_candidate = tried.setdefault(path.name.partition("-")[0], {})
        of_candidate[int(path.name[-1])] = read(path / "chosen.json")["validation_ce_nats"]
    assert tried.keys() == FULL_CANDIDATES.keys()
    best_on_seed_0 = sorted(tried, key=lambda name: tried[name][0])[:SHORTLIST]
    assert {name for name, ends in tried.items() if len(ends) > 1} == set(best_on_seed_0)
    assert full["candidate"] == min(best_on_seed_0, key=lambda name: sum(tried[name].values()))
