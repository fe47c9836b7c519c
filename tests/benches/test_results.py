"""A figure and its goal, and the object that --json prints."""

from __future__ import annotations

import json
import math

import pytest

from pipeline.benches.machine import describe_machine
from pipeline.benches.results import Result, measured, to_json


@pytest.mark.parametrize(
    ("value", "goal", "text", "ok"),
    [
        (1.25, {"at_most": 1.25}, "<= 1.25", True),
        (1.26, {"at_most": 1.25}, "<= 1.25", False),
        (96.0, {"at_least": 96}, ">= 96", True),
        (95.9, {"at_least": 96}, ">= 96", False),
        (1.0, {"below": 1.0}, "< 1", False),
        (0.99, {"below": 1.0}, "< 1", True),
        (3.0, {"at_least": 200_000}, ">= 200,000", False),
        (5e-5, {"at_most": 1e-4}, "<= 0.0001", True),
        (math.nan, {"at_most": 1.0}, "<= 1", False),
        (7.0, {}, None, None),
    ],
)
def test_a_figure_meets_its_goal_or_not(value: float, goal: dict[str, float], text: str | None, ok: bool) -> None:
    result = measured("bench.figure", value, "ms", **goal)
    assert (result.name, result.unit, result.goal, result.ok) == ("bench.figure", "ms", text, ok)


def test_a_figure_has_one_goal() -> None:
    with pytest.raises(AssertionError, match="one goal"):
        measured("bench.figure", 1.0, at_most=1, at_least=1)


def test_json_holds_the_machine_and_every_figure() -> None:
    machine = describe_machine()
    described = to_json(machine, [measured("a", 1, "ms"), measured("b", 2, at_most=1)])
    assert json.loads(json.dumps(described, allow_nan=False)) == {
        "machine": machine,
        "results": [
            {"name": "a", "value": 1.0, "unit": "ms", "goal": None, "ok": None},
            {"name": "b", "value": 2.0, "unit": "", "goal": "<= 1", "ok": False},
        ],
    }
    assert machine["cores"] >= 1
    assert machine["cpu"]
    assert machine["memory_gb"] > 0


def test_a_name_comes_once() -> None:
    twice = Result("a", 1.0, "", None, None)
    with pytest.raises(ValueError, match=r"comes twice: \['a'\]"):
        to_json({}, [twice, twice])
