"""Both sides of a ratio take turns, and neither always goes first."""

from __future__ import annotations

import pytest

from pipeline.benches.rounds import alternate, median_ratio


def test_sides_take_turns_and_the_order_turns_round() -> None:
    called: list[str] = []
    sides = {name: lambda name=name: called.append(name) for name in "abc"}
    seconds = alternate(sides, rounds=3)
    assert "".join(called) == "cba" + "abc" + "cba" + "abc"
    assert {name: len(each) for name, each in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert all(one > 0 for each in seconds.values() for one in each)


def test_warm_up_is_not_counted() -> None:
    called: list[str] = []
    sides = {"a": lambda: called.append("a")}
    assert len(alternate(sides, rounds=2, warmup=3)["a"]) == 2
    assert len(called) == 5
    assert len(alternate(sides, rounds=1, warmup=0)["a"]) == 1
    with pytest.raises(ValueError, match="at least 1"):
        alternate(sides, rounds=0)


def test_a_ratio_is_of_the_same_round() -> None:
    # The machine slowed down tenfold in the second round; the ratio did not.
    assert median_ratio([2.0, 20.0, 2.2], [1.0, 10.0, 1.0]) == pytest.approx(2.0)
