"""Arms differ from the default in one factor; what each asks for is a config that this version accepts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pipeline.benches.quality.arms import Arm, arms_of, chosen_arms
from pipeline.benches.quality.plan import (
    MOST_BEYOND,
    RATE_FACTORS,
    Study,
    Trial,
    beginnings,
    is_at_an_edge,
    steps,
    trainings,
)
from pipeline.benches.quality.price import expected_seconds
from pipeline.config import keys_of_kind
from pipeline.distill.settings import WITHOUT_TEACHER
from pipeline.errors import ConfigError
from pipeline.evaluation.study.findings import DEFAULT, FULL, LABELS
from stages.bench_quality import BEGINNING, MANY, studies_of
from stages.config import RunConfig, load_run_config
from stages.quality_trainings import arm_config

ARMS = {arm.name: arm for arm in arms_of(256, 4096)}
QUALITY = load_run_config("quality")


def changed_keys(config: RunConfig) -> set[str]:
    """Keys whose value is another than the default arm's, by comparing whole configs; weights as one."""
    kinds = ("identity", "schedule", "free")
    ours, default = (
        {k: v for kind in kinds for k, v in keys_of_kind(each, kind).items()} for each in (config, QUALITY)
    )
    changed = {key for key in ours if ours[key] != default[key]} - {"train.router"}
    changed |= {"train.router"} if config.train.router_kind != QUALITY.train.router_kind else set()
    return {key.replace("ce_weight", "weights").replace("kd_weight", "weights") for key in changed}


def factor_of(key: str) -> str:
    """The cache is one factor, a temperature with both its ends another."""
    return key.split(".")[0] if key.startswith("cache.") else ".".join(key.split(".")[:2])


@pytest.mark.parametrize("name", [name for name in ARMS if name != FULL])
def test_an_arm_is_one_factor_from_the_default(name: str) -> None:
    """But for draws from all ids, which are right at τ = 1 alone, and one part of a loss, of which none is routed."""
    arm = ARMS[name]
    factors = {factor_of(key) for key in changed_keys(arm_config(QUALITY, arm, arm.candidates[""]))}
    expected = {DEFAULT: 0, "sampled": 2, "ce0": 2, LABELS: 3}.get(name, 1)
    assert len(factors) == expected, factors
    if name == LABELS:
        assert arm.candidates[""] == WITHOUT_TEACHER  # whatever else a config has that the teacher is read for
    else:
        assert len(arm.factors) == len(factors) + len(arm.candidates) - 1, "another candidate has its weights besides"
    of_labels_alone = {"train.weights", "train.router", *(["train.balance"] if name == LABELS else [])}
    if expected > 1:
        assert factors == {"sampled": {"cache", "train.temperature"}}.get(name, of_labels_alone)


def test_full_distillation_differs_by_its_records_and_what_it_chooses_from() -> None:
    full = ARMS[FULL]
    assert (full.live, dict(full.cache)) == (True, {})
    for changes in full.candidates.values():
        config = arm_config(QUALITY, full, changes)
        changed = changed_keys(config)
        assert "train.objective" in changed
        factors = {"train.objective", "train.router", "train.weights", "train.temperature", "train.balance"}
        assert {factor_of(key) for key in changed} <= factors
    assert [arm for arm in ARMS.values() if arm.live] == [full]
    defaults = arm_config(QUALITY, full, full.candidates["ce0_1_tau1_2_routed_balanced"])
    assert changed_keys(defaults) == {"train.objective"}, "what the default itself is must be among it"


def test_head_sizes_are_parts_of_the_default_head_and_say_their_vocabulary() -> None:
    small = [name for name in ARMS if name.startswith("k")]
    large = [arm.name for arm in arms_of(256, 49_152) if arm.name.startswith("k")]
    narrow = [arm.name for arm in arms_of(32, 4096) if arm.name.startswith("k")]
    assert small == ["k16of4096", "k32of4096", "k64of4096", "k128of4096"]
    assert narrow == ["k2of4096", "k4of4096", "k8of4096", "k16of4096"]
    assert large == ["k16of49152", "k32of49152", "k64of49152", "k128of49152"]
    assert (arms_of(32, 4096)[5].cache["head_size"], arms_of(256, 49_152)[5].cache["head_size"]) == (8, 64)


def test_arms_are_chosen_by_name_or_by_length() -> None:
    every = tuple(ARMS.values())
    short = [arm.name for arm in chosen_arms(every, None, short=True)]
    caches, ways = ["compact", "sampled"], ["tau1", "router_uniform", "no_balance", "draws16"]
    assert short == [LABELS, FULL, DEFAULT, "bucket", "subset", *caches, *ways]
    assert chosen_arms(every, None, short=False) == every
    assert [arm.name for arm in chosen_arms(every, ["tau2"], short=True)] == [LABELS, FULL, "tau2"]
    with pytest.raises(ConfigError, match=r"no arm is called zzz\. There are: labels, "):
        chosen_arms(every, ["zzz", "default"], short=True)
    wrong = ["bukcet", "zzz", "default", "compcat"]
    with pytest.raises(
        ConfigError, match=r"called bukcet, zzz, compcat; did you mean 'bucket', 'compact.\? There are: "
    ):
        chosen_arms(every, wrong, short=True)


def test_trainings_are_counted() -> None:
    plain, deciding = Arm("plain", {"": {}}), Arm("deciding", {"a": {}, "b": {}}, decides=True)
    study = Study("", 10, 1.0, 4096, (plain, deciding))
    assert [len(study.seeds(arm)) for arm in study.arms] == [3, 5]
    assert [len(study.choosing_seeds(arm)) for arm in study.arms] == [3, 3]
    # Candidates with three seeds, the best of them at two more rates with three, the best rate with the others.
    assert trainings([study]) == (3 * 3) + (2 * 3 + 2 * 3 + 2)
    # Fewer seeds than would choose.
    assert trainings([replace(study, num_seeds=2)]) == (3 * 2) + (2 * 2 + 2 * 2)
    # Of five candidates two are out after seed 0.
    many = Arm("many", {name: {} for name in "abcde"}, decides=True)
    assert trainings([replace(study, arms=(many,))]) == 2 + 3 * 3 + 2 * 3 + 2
    assert steps([study]) == 10 * trainings([study])
    assert len(RATE_FACTORS) == 3
    assert RATE_FACTORS[0] == 1.0
    folders = {study.trial(arm, "", factor, seed).folder for arm in study.arms for factor in (1, 2) for seed in (0, 1)}
    assert len(folders) == 8


def test_studies_on_one_vocabulary_have_their_beginnings_in_common() -> None:
    arm = Arm("plain", {"": {}})
    few = Study("", 10, 1.0, 4096, (arm,), None, beginning_steps=30, beginning_rate=0.5)
    many = Study("many", 40, 0.7, 4096, (arm, Arm("deciding", {"": {}}, decides=True)), None, 30, 0.5)
    large = Study("large", 10, 1.0, 49_152, (arm,), 2, 30, 0.5)
    assert [(vocab_size, trial.seed) for vocab_size, trial in beginnings([few, many, large])] == [
        *((4096, seed) for seed in range(5)),
        *((49_152, seed) for seed in range(2)),
    ]
    assert trainings([few, many]) == trainings([few]) - 3 + trainings([many])
    assert steps([few]) == 3 * 30 + 9 * 10
    trial = few.with_seed(few.trial(arm, "", 2.0, seed=0), 2)
    assert trial.beginning is not None
    assert (trial.seed, trial.learning_rate, trial.beginning.seed, trial.beginning.steps) == (2, 2.0, 2, 30)
    assert trial.beginning.folder == many.with_seed(trial, 2).beginning.folder  # type: ignore[union-attr]
    assert Study("", 10, 1.0, 4096, (arm,)).beginnings() == []


@pytest.mark.parametrize(("best_rate", "rates"), [(0.01, 9), (0.2, 8), (1.0, 3), (1.5, 4), (100.0, 9)])
def test_rates_are_tried_until_the_best_is_no_longer_at_an_edge(best_rate: float, rates: int) -> None:
    """Scores fall towards one rate: it is found where it is near, and said to be at an edge where it is far."""
    arm, other = Arm("plain", {"": {}}), Arm("other", {"": {}})
    study = Study("", 10, 1.0, 4096, (arm, other))
    tried = [study.trial(each, "", factor, 0) for factor in RATE_FACTORS for each in (arm, other)]

    def best() -> Trial:
        return min((t for t in tried if t.arm is arm), key=lambda t: abs(math.log(t.learning_rate / best_rate)))

    while (further := study.beyond(tried, best())) is not None:
        assert further.arm is arm
        assert further.learning_rate not in [trial.learning_rate for trial in tried]
        tried.append(further)
    assert len(tried) - 3 == rates
    assert is_at_an_edge(tried, best()) == (rates == 3 + MOST_BEYOND)


def test_a_long_study_has_two_lengths_and_a_large_vocabulary() -> None:
    short = studies_of(QUALITY, short=True, names=None, num_seeds=None)
    assert {name: [study.name for study in group] for name, group in short.items()} == {"v4096": [""]}
    long = studies_of(QUALITY, short=False, names=None, num_seeds=None)
    few, many = long["v4096"]
    assert (few.name, many.name, many.steps) == ("", "many", MANY * few.steps)
    assert few.beginning_steps == many.beginning_steps == BEGINNING * few.steps
    assert [arm.name for arm in few.arms] == [arm.name for arm in many.arms]
    assert {arm.name for arm in few.arms} == set(ARMS)
    [large] = long["v49152"]
    assert [arm.name for arm in large.arms] == [LABELS, FULL, DEFAULT, "compact", "sampled"]
    assert {len(large.seeds(arm)) for arm in large.arms} == {3}
    assert [len(few.seeds(arm)) for arm in few.arms[:12]] == [5] * 11 + [3]


def test_a_student_that_comes_trained_begins_as_it_is() -> None:
    config = QUALITY.model_copy(update={"student": QUALITY.student.model_copy(update={"config": None, "model": "s"})})
    [study] = studies_of(config, short=True, names=None, num_seeds=None)["v4096"]
    assert study.beginnings() == []
    assert study.trial(study.arms[0], "", 1.0, 0).beginning is None


def test_every_arm_may_be_asked_for_alone() -> None:
    for name in ARMS:
        [study] = studies_of(QUALITY, short=True, names=[name], num_seeds=1)["v4096"]
        assert {each.name for each in study.arms} == {LABELS, FULL, name}


def test_the_price_grows_with_steps_arms_and_vocabulary() -> None:
    arm = Arm("plain", {"": {}})
    study = Study("", 100, 1.0, 4096, (arm,))
    one = expected_seconds([study], 1024)
    longer = Study("", 200, 1.0, 4096, (arm,))
    wider = Study("", 200, 1.0, 8192, (arm,))
    live = Study("", 100, 1.0, 4096, (Arm("live", {"": {}}, live=True),))
    assert expected_seconds([study, study], 1024) == 2 * one
    assert expected_seconds([study], 1024, num_workers=2) == one / 2
    assert expected_seconds([replace(study, beginning_steps=300, beginning_rate=1.0)], 1024) > one
    assert one < expected_seconds([longer], 1024) < 2 * one
    assert expected_seconds([wider], 1024) > expected_seconds([longer], 1024)
    assert expected_seconds([live], 1024) > one
