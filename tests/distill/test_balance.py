"""Balance: shares of the loss as the weights are, from running means of earlier steps."""

from __future__ import annotations

import json
import math

import pytest

from pipeline.distill.settings import Part
from pipeline.distill.weighting.balance import MOST, RunningMeans, balanced

WEIGHTS: dict[Part, float] = {"ce": 0.1, "kd": 0.7, "rank": 0.2}


def means(**numbers: float) -> RunningMeans[Part]:
    found: RunningMeans[Part] = RunningMeans(0.9)
    found.observe({part: numbers[part] for part in WEIGHTS if part in numbers})
    return found


def test_shares_are_as_the_weights_are_and_their_sum_is_what_it_was() -> None:
    sizes = {"ce": 6.0, "kd": 0.4, "rank": 2.5}
    found = balanced(WEIGHTS, means(**sizes))
    terms = {part: found[part] * sizes[part] for part in WEIGHTS}
    total = sum(WEIGHTS[part] * sizes[part] for part in WEIGHTS)
    assert sum(terms.values()) == pytest.approx(total)
    assert {part: term / total for part, term in terms.items()} == pytest.approx(WEIGHTS)


def test_equal_magnitudes_change_nothing() -> None:
    assert balanced(WEIGHTS, means(ce=3.0, kd=3.0, rank=3.0)) == pytest.approx(WEIGHTS)


def test_before_anything_was_seen_weights_are_as_configured() -> None:
    assert balanced(WEIGHTS, RunningMeans(0.9)) == WEIGHTS


def test_a_part_without_weight_has_no_say() -> None:
    only_two: dict[Part, float] = {"ce": 0.5, "kd": 0.5, "rank": 0.0}
    found = balanced(only_two, means(ce=4.0, kd=1.0, rank=1e6))
    assert found == pytest.approx({"ce": 0.5 * 2.5 / 4.0, "kd": 0.5 * 2.5, "rank": 0.0})


def test_a_part_not_seen_yet_keeps_its_weight() -> None:
    found = balanced(WEIGHTS, means(ce=4.0, kd=1.0))
    assert found["rank"] == WEIGHTS["rank"]
    assert found["ce"] * 4.0 / (found["kd"] * 1.0) == pytest.approx(WEIGHTS["ce"] / WEIGHTS["kd"])


def test_a_part_below_zero_counts_by_its_size() -> None:
    """As an estimate of KD from a few draws may be, of a student that is nearly its teacher."""
    sizes = {"ce": 6.0, "kd": -0.4, "rank": 2.5}
    found = balanced(WEIGHTS, means(**sizes))
    terms = {part: found[part] * abs(sizes[part]) for part in WEIGHTS}
    assert {part: term / sum(terms.values()) for part, term in terms.items()} == pytest.approx(WEIGHTS)


def test_a_part_alone_keeps_its_weight_to_the_bit() -> None:
    sizes = [0.1 * number for number in range(1, 30)]
    assert {balanced({"ce": 0.0, "kd": 0.9, "rank": 0.0}, means(kd=size))["kd"] for size in sizes} == {0.9}


@pytest.mark.parametrize("nearly_nothing", [0.0, 1e-12, -1e-12])
def test_no_part_is_blown_up_without_end(nearly_nothing: float) -> None:
    found = balanced(WEIGHTS, means(ce=4.0, kd=nearly_nothing, rank=4.0))
    assert found["kd"] == pytest.approx(MOST * WEIGHTS["kd"])
    assert balanced(WEIGHTS, means(ce=0.0, kd=0.0, rank=0.0)) == WEIGHTS


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_running_means_are_weighted_sums(decay: float) -> None:
    numbers, found = [3.0, -1.0, 4.0, 1.0, 5.0], RunningMeans[Part](decay)
    assert found.get("kd") == 1.0
    for number in numbers:
        found.observe({"kd": number})
    weights = [decay**age for age in reversed(range(len(numbers)))]
    expected = sum(w * x for w, x in zip(weights, numbers, strict=True)) / sum(weights)
    assert found.get("kd") == pytest.approx(expected)
    assert "kd" in found
    assert "ce" not in found


def test_what_is_not_finite_is_passed_over() -> None:
    found = means(kd=2.0)
    found.observe({"kd": math.inf, "ce": math.nan})
    assert found.get("kd") == pytest.approx(2.0)
    assert "ce" not in found


def test_state_survives_json_exactly() -> None:
    found, again = means(ce=0.1, kd=math.pi), RunningMeans[Part](0.9)
    found.observe({"kd": 1 / 3})
    again.load_state(json.loads(json.dumps(found.state())))
    for number in (0.7, 1e-9):
        found.observe({"ce": number, "kd": number})
        again.observe({"ce": number, "kd": number})
    assert (found.get("kd"), found.get("ce")) == (again.get("kd"), again.get("ce"))


def test_another_decay_goes_on_from_the_same_means() -> None:
    """A fork may forget slower, or faster: what it begins with are means all the same."""
    found, again = RunningMeans[Part](0.9), RunningMeans[Part](0.999)
    for number in (3.0, 5.0, 4.0):
        found.observe({"ce": number})
    found.observe({"ce": 4.0, "kd": 0.25})
    again.load_state(json.loads(json.dumps(found.state())))
    assert {part: again.get(part) for part in ("ce", "kd")} == pytest.approx({"ce": found.get("ce"), "kd": 0.25})
