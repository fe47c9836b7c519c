"""Charts of estimates, read back from their SVG: where spots, intervals, arrows and names are."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

import pytest

from pipeline.evaluation.interval_charts import interval_chart, scatter_chart
from pipeline.evaluation.series import Chart, Estimate, Level, Spot
from pipeline.evaluation.study.picture import bytes_chart
from tests.evaluation.studies import crowded_study, real_study

SVG = "{http://www.w3.org/2000/svg}"
FULL = [Level("full", 1.0)]
BOUNDS = (-0.5, 1.5)
CHARACTER, LINE = 0.56, 1.2  # width and height of a letter beside the size of the type, about as browsers set it


@dataclass(frozen=True)
class Text:
    """A text with about the room it takes; y grows downward."""

    words: str
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Text, room: float = 0.0) -> bool:
        return (
            self.left < other.right - room
            and other.left < self.right - room
            and self.top < other.bottom - room
            and other.top < self.bottom - room
        )


def root_of(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(chart.svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def texts_of(chart: Chart) -> list[Text]:
    found = []
    for element in root_of(chart).iter(f"{SVG}text"):
        style, words = element.attrib["style"], element.text or ""
        size = float(re.search(r"([\d.]+)px", style)[1])  # type: ignore[index]
        if "x" in element.attrib:
            x, y = float(element.attrib["x"]), float(element.attrib["y"])
        else:
            numbers = re.findall(r"-?[\d.]+", element.attrib["transform"])
            x, y = float(numbers[0]), float(numbers[1])
        width = CHARACTER * size * len(words)
        anchor = re.search(r"text-anchor: (\w+)", style)
        left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor[1] if anchor else "start"]
        found.append(Text(words, left, y - 0.75 * size, left + width, y + (LINE - 0.75) * size))
    return found


def marks_of(chart: Chart, round_: bool) -> list[tuple[float, float]]:
    """Where markers stand, from left to right: round ones are spots, the others arrows."""
    root = root_of(chart)
    shapes = {f"#{path.attrib['id']}": path.attrib["d"] for path in root.iter(f"{SVG}path") if "id" in path.attrib}
    found = []
    for use in root.iter(f"{SVG}use"):
        is_round = "C" in shapes[use.attrib["{http://www.w3.org/1999/xlink}href"]]
        if is_round == round_ and "grid" not in use.attrib["style"]:
            found.append((float(use.attrib["x"]), float(use.attrib["y"])))
    return sorted(found)


def spots_of(chart: Chart) -> list[tuple[float, float]]:
    return marks_of(chart, round_=True)


def numbers_of(path: ElementTree.Element) -> list[float]:
    return [float(number) for number in re.findall(r"-?[\d.]+", path.attrib["d"])]


def spot(name: str, size: float, value: float, half: float | None = None) -> Spot:
    return Spot(size, Estimate(name, value, None if half is None else (value - half, value + half)))


def scatter(*spots: Spot) -> Chart:
    return scatter_chart("a", spots, "share", FULL, "bytes", BOUNDS)


# ------------------------------------------------------------------ scatter


def test_sizes_far_apart_stand_on_a_scale_of_powers() -> None:
    near, far = ([x for x, _ in spots_of(scatter(*(spot(f"s{x}", x, 0.9) for x in sizes)))]
                 for sizes in ((40, 60, 80), (30, 90, 270)))  # fmt: skip
    assert near[1] - near[0] == pytest.approx(near[2] - near[1], rel=1e-3)  # equal steps of bytes
    assert far[1] - far[0] == pytest.approx(far[2] - far[1], rel=1e-3)  # equal factors


def test_heights_are_shares_and_intervals_reach_their_ends() -> None:
    chart = scatter(spot("a", 40, 0.8, 0.1), spot("b", 80, 1.0))
    (x, low), (_, high) = spots_of(chart)
    per_share = (high - low) / 0.2
    paths = [numbers_of(path) for path in root_of(chart).iter(f"{SVG}path")]
    [ends] = [path[1::2] for path in paths if len(path) == 4 and path[0] == path[2] == x]
    assert sorted(ends) == pytest.approx(sorted([low + 0.1 * per_share, low - 0.1 * per_share]), abs=0.01)


def test_what_lies_far_beyond_is_an_arrow_at_the_edge_and_presses_nothing_together() -> None:
    near = (spot("a", 40, 0.0), spot("b", 80, 1.0))
    alone, chart = spots_of(scatter(*near)), scatter(*near, spot("lost", 60, -6.4), spot("wide", 70, 0.9, 9))
    beside, arrows = spots_of(chart), marks_of(chart, round_=False)
    assert (len(beside), len(arrows)) == (3, 3)  # of `lost` an arrow alone, of `wide` the spot and one at either end
    assert arrows[0][1] == max(y for _, y in arrows)  # y grows downward: at the lower edge
    assert beside[0][1] - beside[-1][1] > 0.4 * (alone[0][1] - alone[-1][1])
    assert {"lost", "wide"} <= {text.words for text in texts_of(chart)}


def test_a_single_spot_and_equal_sizes_have_a_picture() -> None:
    assert len(spots_of(scatter(spot("a", 40, 1.0)))) == 1
    assert len(spots_of(scatter(spot("a", 40, 0.9), spot("b", 40, 0.9)))) == 2


@pytest.mark.parametrize("size", [(420, 300), (640, 380)])
@pytest.mark.parametrize("study", [real_study(), crowded_study()], ids=["real", "crowded"])
def test_names_cover_neither_each_other_nor_spots(study: object, size: tuple[float, float]) -> None:
    chart = bytes_chart("a", study, size)  # type: ignore[arg-type]
    assert chart is not None
    texts, spots = texts_of(chart), spots_of(chart)
    names = [text for text in texts if text.words in study.findings or text.words == "full distillation"]  # type: ignore[attr-defined]
    assert len(names) == len(spots) + 1
    for one, other in itertools.combinations(texts, 2):
        assert not one.meets(other, room=0.5), (one, other)
    for text, (x, y) in itertools.product(names, spots):
        assert not text.meets(Text("", x - 3.5, y - 3.5, x + 3.5, y + 3.5)), (text, x, y)


@pytest.mark.parametrize("size", [(420, 300), (640, 380)])
def test_every_name_is_nearest_its_spot_or_led_to_it(size: tuple[float, float]) -> None:
    study = crowded_study()
    chart = bytes_chart("a", study, size)
    assert chart is not None
    spots = spots_of(chart)
    muted = (path for path in root_of(chart).iter(f"{SVG}path") if "var(--muted)" in path.attrib.get("style", ""))
    leads = [numbers_of(path) for path in muted if "stroke-width: 0.7" in path.attrib["style"]]
    assert leads
    own = {f.arm: f.bytes_per_token for f in study.findings.values() if f.has_own_cache or f.arm == "default"}
    by_size = sorted(own, key=lambda name: own[name] or 0)
    for text in texts_of(chart):
        if text.words in own:
            x, y = spots[by_size.index(text.words)]
            across = max(text.left - x, x - text.right, 0.0)
            down = max(text.top - y, y - text.bottom, 0.0)
            led = [lead for lead in leads if math.dist(lead[:2], (x, y)) < 8]
            assert len(led) == 1 or (not led and max(across, down) < 17), text
            for lead in led:  # from the rim of its own spot to its own words
                assert text.meets(Text("", lead[2] - 4, lead[3] - 4, lead[2] + 4, lead[3] + 4)), text


# ------------------------------------------------------------------ one below another


def test_rows_stand_in_order_with_names_values_and_levels() -> None:
    rows = [Estimate("good", 1.02, (0.9, 1.1)), Estimate("bad", 0.2), Estimate("lost", -6.4, (-7.0, -6.0))]
    chart = interval_chart("a", rows, [Level("labels", 0.0), *FULL], "share", BOUNDS)
    texts = {text.words: text for text in texts_of(chart)}
    assert {"good", "102%", "bad", "20%", "lost", "\N{MINUS SIGN}640%", "labels", "full", "share"} <= set(texts)
    assert texts["good"].top < texts["bad"].top < texts["lost"].top
    for name, value in (("good", "102%"), ("bad", "20%"), ("lost", "\N{MINUS SIGN}640%")):
        assert texts[name].top == pytest.approx(texts[value].top, abs=2)
    [bad, good], [lost] = spots_of(chart), marks_of(chart, round_=False)
    assert lost[0] < bad[0] < good[0]
    assert good[1] < bad[1] < lost[1]


def test_a_share_beyond_all_measure_is_written_short() -> None:
    rows = [Estimate("up", 1e12), Estimate("down", -1e12, (-1e13, 1e13))]
    words = {text.words for text in texts_of(interval_chart("a", rows, FULL, "share", BOUNDS))}
    assert {"> 999%", "< \N{MINUS SIGN}999%"} <= words


def test_many_rows_stay_apart() -> None:
    rows = [Estimate(f"a_rather_long_name_{row}", 0.5 + row / 50, (0.2, 0.9)) for row in range(20)]
    texts = texts_of(interval_chart("a", rows, FULL, "share", BOUNDS))
    for one, other in itertools.combinations(texts, 2):
        assert not one.meets(other, room=0.5), (one, other)
