"""Arms set beside each other, from numbers small enough to work out by hand."""

from __future__ import annotations

import math

import pytest

from pipeline.evaluation.study.findings import compare
from pipeline.evaluation.study.statistics import mean_interval
from tests.evaluation.study.findings import ALL, DEFAULT, FULL, LABELS, finding


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


def test_a_difference_beyond_telling_is_capped_as_perplexities_are() -> None:
    wild = {"full": FULL, "wild": finding("wild", (4.5, 1.0), (4e8, 1.0), (-4e8, 1.0))}
    lost = compare(wild["wild"], wild).perplexity_lost
    assert lost is not None
    assert lost.high == pytest.approx(100 * math.expm1(20.0))
    assert lost.low == pytest.approx(-100.0)
