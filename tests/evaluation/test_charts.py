"""Charts as the SVG they are: parsed by an independent reader, the same every time, without anything that runs."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.evaluation.charts import band_chart, bar_chart, line_chart, scale_chart, share_chart
from pipeline.evaluation.interval_charts import interval_chart, scatter_chart
from pipeline.evaluation.series import Band, Chart, Estimate, Level, Line, Point, Spot, thin

STEPS = list(range(0, 1000, 10))


def texts(chart: Chart) -> list[str]:
    """What the chart says in words, as an XML reader sees it."""
    root = ElementTree.fromstring(chart.svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


WAVE = [8 + np.sin(step) for step in STEPS]
ESTIMATES = [Estimate("topk", 0.99, (0.97, 1.01)), Estimate("sampled", 0.93, colour="second")]
SPOTS = [Spot(size, estimate) for size, estimate in zip((300.0, 40.0), ESTIMATES, strict=True)]
BANDS = [
    Band(part, STEPS, [7.0] * len(STEPS), [8.0] * len(STEPS), [high] * len(STEPS))
    for part, high in (("labels", 9.0), ("teacher", 14.0))
]
CHARTS: dict[str, Callable[[], Chart]] = {
    "line": lambda: line_chart("a", [Line("one", STEPS, WAVE, noisy=True)], "nats", [Level("teacher", 7.0)]),
    "log": lambda: line_chart("b", [Line("one", STEPS, np.geomspace(0.01, 100, 100).tolist())], "norm", log_y=True),
    "one point": lambda: line_chart("c", [Line("one", [5], [0.5])], "share", percent=True, from_zero=True),
    "scale": lambda: scale_chart("d", [Point("teacher", 3.3, "teacher"), Point("student", 4.2)], "nats"),
    "scale of one": lambda: scale_chart("e", [Point("alone", 3.0)], "nats"),
    "share": lambda: share_chart("f", [("τ = 1", [0] * 99 + [5], "student"), ("τ = 2", [1] * 9, "extra")], "mass"),
    "bars": lambda: bar_chart("g", [str(index) for index in range(50)], [200.0] * 50, "bytes", "shard"),
    "log bars": lambda: bar_chart("h", ["min", "max"], [1.0, 1e6], "tokens", "quantile", log_y=True),
    "scatter": lambda: scatter_chart("j", SPOTS, "share", [Level("full", 1.0)], "bytes", (0, 2)),
    "intervals": lambda: interval_chart("k", ESTIMATES, [Level("full", 1.0)], "share", (0, 2)),
    "bands": lambda: band_chart("l", BANDS, "weight"),
    "zeros": lambda: bar_chart("i", ["min", "max"], [0.0, 0.0], "tokens", "quantile"),
}


@pytest.fixture(scope="module")
def charts() -> dict[str, Chart]:
    return {name: draw() for name, draw in CHARTS.items()}


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_plain_svg(charts: dict[str, Chart], name: str) -> None:
    chart = charts[name]
    assert texts(chart)
    assert not re.search(r"<script|<style|<metadata|<!--|\son\w+=|#0101\d\d|DejaVu|http(?!://www\.w3\.org)", chart.svg)
    assert chart.svg == CHARTS[name]().svg


def test_ids_are_unique_across_charts(charts: dict[str, Chart]) -> None:
    ids = [found for chart in charts.values() for found in set(re.findall(r'\sid="([^"]+)"', chart.svg))]
    assert len(ids) == len(set(ids))
    for chart in charts.values():
        used = re.findall(r'(?:url\(|href=")#([^")]+)', chart.svg)
        assert set(used) <= set(re.findall(r'\sid="([^"]+)"', chart.svg))


def test_lines_have_a_legend_and_a_unit(charts: dict[str, Chart]) -> None:
    chart = charts["line"]
    assert [key.label for key in chart.keys] == ["one", "teacher"]
    assert {"nats", "step"} <= set(texts(chart))


def test_scale_says_names_and_values(charts: dict[str, Chart]) -> None:
    assert {"teacher", "3.300", "student", "4.200"} <= set(texts(charts["scale"]))


def test_names_are_text_whatever_they_hold() -> None:
    chart = scale_chart("x", [Point("<script>$a_b$", 1.0), Point("教師", 2.0)], "nats")
    assert "<script>" not in chart.svg
    assert {"<script>$a_b$", "教師"} <= set(texts(chart))


def test_few_ticks_on_a_log_axis(charts: dict[str, Chart]) -> None:
    labels = texts(charts["log"])
    assert {"0.01", "1", "100"} <= set(labels)
    assert len(labels) < 16


def test_not_every_bar_is_named(charts: dict[str, Chart]) -> None:
    numbers = [text for text in texts(charts["bars"]) if text.isdigit()]
    assert "49" in numbers
    assert len(numbers) < 20


def test_thinning_keeps_means_and_drops_what_is_not_finite() -> None:
    x, y = thin(range(1000), [float(index) for index in range(1000)], limit=10)
    assert len(x) == 10
    np.testing.assert_allclose(x, y)
    assert x[0] == pytest.approx(np.mean(range(100)))
    x, y = thin([1, 2, 3], [1.0, float("nan"), float("inf")])
    assert (x.tolist(), y.tolist()) == ([1.0], [1.0])


def test_a_long_training_stays_a_small_chart() -> None:
    steps = list(range(200_000))
    chart = line_chart("a", [Line("one", steps, [float(step % 7) for step in steps], noisy=True)], "nats")
    assert len(chart.svg) < 60_000


def test_each_band_has_a_panel_of_its_own_on_one_scale(charts: dict[str, Chart]) -> None:
    chart = charts["bands"]
    words = texts(chart)
    assert {"labels", "teacher", "weight", "step"} <= set(words)
    assert chart.keys == ()
    assert [words.count(tick) for tick in ("0", "10")] == [2 + 1, 2]  # both panels go from 0 to 15; steps begin at 0
    shapes = dict(re.findall(r'<path id="([^"]+)" d="([^"]*)"', chart.svg))
    filled = [shapes[name] for name in re.findall(r'<use xlink:href="#([^"]+)"[^>]*fill-opacity', chart.svg)]
    heights = [[float(y) for _, y in re.findall(r"[ML] (\S+) (\S+)", path)] for path in filled]
    narrow, wide = (max(ys) - min(ys) for ys in heights)  # from 7 to 9, and from 7 to 14
    assert wide / narrow == pytest.approx(7 / 2, rel=1e-3)
    assert max(heights[0]) < min(heights[1])
