"""Names in a chart: on what they were first wished where that is free, on nothing else where there is room."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.evaluation.placing import Box, Place, place


def square(left: float, bottom: float, side: float = 10.0) -> Box:
    return Box(left, bottom, left + side, bottom + side)


def places(*corners: tuple[float, float]) -> list[Place]:
    return [Place(square(*corner)) for corner in corners]


def test_boxes_meet_where_both_cover_something() -> None:
    assert square(0, 0).meets(square(5, 5))
    assert square(0, 0, 100).meets(square(20, 20))
    assert not square(0, 0).meets(square(10, 0))  # they touch
    assert not square(0, 0).meets(square(5, 30))
    assert square(0, 0, 100).holds(square(90, 90))
    assert not square(0, 0, 100).holds(square(91, 90))


@pytest.mark.parametrize("seed", range(10))
def test_a_line_crosses_a_box_where_one_of_its_points_is_inside(seed: int) -> None:
    noise, box = np.random.default_rng(seed), Box(3, 4, 7, 6)
    for _ in range(100):
        start, end = noise.integers(0, 11, (2, 2))
        shares_P1 = np.linspace(0, 1, 4001)[:, None]
        points_P2 = start + shares_P1 * (end - start)
        inside = bool(np.any((points_P2 > (3 + 1e-9, 4 + 1e-9)).all(1) & (points_P2 < (7 - 1e-9, 6 - 1e-9)).all(1)))
        assert box.is_crossed(tuple(start.tolist()), tuple(end.tolist())) == inside, (start, end)


def test_the_first_wish_is_met_where_it_is_free() -> None:
    wishes = [places((0, 0), (50, 0)), places((20, 0), (70, 0))]
    assert place(wishes, [], []) == [0, 0]
    assert place(wishes, [square(5, 5)], []) == [1, 0]
    assert place([], [], []) == []


def test_a_name_that_has_another_place_leaves_the_only_one_to_its_neighbour() -> None:
    assert place([places((0, 0), (50, 0)), places((0, 0))], [], []) == [1, 0]
    assert place([places((0, 0)), places((0, 0), (50, 0))], [], []) == [0, 1]


def test_a_line_is_lain_on_where_the_next_free_place_is_far() -> None:
    line = [Box(4, -100, 6, 100)]
    assert place([places((0, 0), (50, 0))], [], line) == [1]
    assert place([places(*[(0, 0)] * 30, (50, 0))], [], line) == [0]
    assert place([places(*[(0, 0)] * 30, (50, 0))], line, []) == [30]  # a spot never is


def test_a_line_that_leads_to_a_name_covers_too() -> None:
    led = Place(square(60, 0), lead=((0.0, 5.0), (60.0, 5.0)))
    assert place([[led, *places((0, 40))]], [square(30, 0)], []) == [1]
    assert place([[led, *places((0, 40))], places((30, 0))], [], []) == [1, 0]


@pytest.mark.parametrize("seed", range(40))
def test_no_more_is_covered_than_must_be(seed: int) -> None:
    """Four names of four places each, all 256 ways tried: the fewest meetings there can be."""
    noise = np.random.default_rng(seed)
    wishes = [places(*noise.uniform(0, 40, (4, 2)).tolist()) for _ in range(4)]
    taken = [square(*noise.uniform(0, 40, 2), side=4) for _ in range(4)]

    def meetings(chosen: tuple[int, ...]) -> int:
        boxes = [found[index].box for found, index in zip(wishes, chosen, strict=True)]
        pairs = [*itertools.combinations(boxes, 2), *itertools.product(boxes, taken)]
        return sum(one.meets(other) for one, other in pairs)

    least = min(meetings(chosen) for chosen in itertools.product(range(4), repeat=4))
    assert meetings(tuple(place(wishes, taken, []))) == least
