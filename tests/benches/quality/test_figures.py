"""Figures of a study, their names and their goals."""

from __future__ import annotations

import math

import pytest

from pipeline.benches.quality.figures import results_of
from tests.evaluation.study.findings import ALL, finding


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
