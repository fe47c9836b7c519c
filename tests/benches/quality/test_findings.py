"""Figures of a study from numbers small enough to work out by hand."""

from __future__ import annotations

import math

import pytest

from pipeline.evaluation.study.findings import Finding, Measured, compare, results_of
from pipeline.evaluation.study.statistics import mean_interval


def finding(arm: str, *students: tuple[float, float], cached: float | None = None) -> Finding:
    """An arm with (ce, kl) of the seeds 0, 1, ..."""
    return Finding(arm, "", 1e-3, False, {seed: Measured(*pair) for seed, pair in enumerate(students)}, cached)


LABELS = finding("labels", (5.0, 1.0), (5.2, 1.2), (5.1, 1.1), (9.0, 9.0))
FULL = finding("full", (4.5, 0.5), (4.7, 0.7), (4.6, 0.6))
DEFAULT = finding("default", (4.5 + math.log(1.01), 0.55), (4.7 + math.log(1.01), 0.75), (4.6, 0.65), cached=50.0)
ALL = {each.arm: each for each in (LABELS, FULL, DEFAULT)}


def test_the_share_of_the_gain_is_over_the_seeds_all_three_have() -> None:
    share = compare(DEFAULT, ALL).kl_gain_share
    assert share is not None
    assert share.mean == pytest.approx(0.45 / 0.5)  # the labels' fourth seed, which others lack, is left out
    assert share.low == pytest.approx(0.9)
    full, labels = compare(FULL, ALL).kl_gain_share, compare(LABELS, ALL).kl_gain_share
    assert full is not None
    assert labels is not None
    assert (full.mean, labels.mean) == (pytest.approx(1.0), pytest.approx(0.0))


def test_perplexity_lost_is_paired_by_seed() -> None:
    lost = compare(DEFAULT, ALL).perplexity_lost
    by_hand = mean_interval([math.log(1.01), math.log(1.01), 0.0])
    assert lost is not None
    assert by_hand.high is not None
    assert lost.mean == pytest.approx(100 * (1.01 ** (2 / 3) - 1))
    assert lost.high == pytest.approx(100 * (math.exp(by_hand.high) - 1))


def test_seeds_that_shift_every_arm_alike_do_not_widen_a_difference() -> None:
    difference = compare(FULL, ALL | {"default": finding("default", (4.6, 0.5), (4.8, 0.5), (4.7, 0.5))}).ce_vs_default
    assert difference is not None
    assert (difference.mean, difference.low) == (pytest.approx(-0.1), pytest.approx(-0.1))


def test_figures_goals_and_names() -> None:
    found = {result.name: result for result in results_of("", ALL)}
    assert found["quality.default.kl_nats"].value == pytest.approx(0.65)
    assert (found["quality.default.gain_share"].goal, found["quality.default.gain_share"].ok) == (">= 0.99", False)
    assert (found["quality.default.gain_share.low"].goal, found["quality.default.gain_share.low"].ok) == (
        ">= 0.95",
        False,
    )
    assert (found["quality.default.perplexity_lost"].goal, found["quality.default.perplexity_lost"].ok) == ("< 1", True)
    assert found["quality.default.bytes_per_token"].value == 50.0
    assert found["quality.full.seeds"].value == 3
    assert "quality.full.gain_share" not in found
    assert all(math.isfinite(result.value) for result in found.values())
    later = [result.name for result in results_of("many", ALL)]
    assert "quality.default.many.gain_share.high" in later
    assert not set(later) & set(found)


def test_goals_of_the_other_kinds() -> None:
    kinds = {name: finding(name, (4.5, 0.5), (4.7, 0.7), (4.6, 0.6), cached=20.0) for name in ("compact", "sampled")}
    found = {result.name: result for result in results_of("", ALL | kinds)}
    for name in kinds:
        assert (found[f"quality.{name}.gain_share"].goal, found[f"quality.{name}.gain_share"].ok) == (">= 0.95", True)


def test_one_seed_gives_means_alone() -> None:
    names = {r.name for r in results_of("", {"labels": finding("labels", (5, 1)), "full": finding("full", (4, 0.5))})}
    assert "quality.labels.kl_nats" in names
    assert not [name for name in names if name.endswith((".low", ".high"))]
