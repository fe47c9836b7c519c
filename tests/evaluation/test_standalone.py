"""A chart as a file of its own: what any viewer needs is in it, in the light and in the dark."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from pipeline.evaluation.charts import line_chart
from pipeline.evaluation.interval_charts import scatter_chart
from pipeline.evaluation.series import Estimate, Level, Line, Spot
from pipeline.evaluation.standalone import standalone

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def content() -> str:
    spots = [Spot(300.0, Estimate("topk", 0.99, (0.97, 1.01))), Spot(40.0, Estimate("sampled", 0.93, colour="second"))]
    return standalone(scatter_chart("a", spots, "share", [Level("full", 1.0)], "bytes", (-0.5, 1.5))).decode()


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, as the contrast of text is reckoned with."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_it_is_a_whole_svg_file_with_its_size(content: str) -> None:
    root = ElementTree.fromstring(content)
    box = [float(number) for number in root.attrib["viewBox"].split()]
    assert [float(root.attrib[side]) for side in ("width", "height")] == box[2:]
    named = {element.text for element in root.iter(f"{SVG}text")}
    assert {"topk", "sampled", "bytes", "share", "full"} <= named


def test_its_paper_lies_under_everything(content: str) -> None:
    root = ElementTree.fromstring(content)
    left, top, width, height = (float(number) for number in root.attrib["viewBox"].split())
    paper = next(element for element in root if element.tag != f"{SVG}style")
    assert paper.tag == f"{SVG}rect"
    sides = [float(paper.attrib[name]) for name in ("x", "y", "width", "height")]
    assert sides == pytest.approx([left, top, width, height], abs=1)
    assert "fill: #ffffff" in paper.attrib["style"]


def test_no_colour_is_left_for_a_page_to_give(content: str) -> None:
    assert "var(" not in content
    assert not re.findall(r"(?:fill|stroke): (?!none|#[0-9a-f]{6})[^;\"}]+", content)


def test_every_colour_has_one_for_the_dark_and_text_is_legible_in_both(content: str) -> None:
    style = content[content.index("<style>") : content.index("</style>")]
    rules = {(side, light): dark for side, light, dark in
             re.findall(r'\[style\*="(\w+): (#\w{6})"\]\{\w+:(#\w{6})!important\}', style)}  # fmt: skip
    drawn = content[content.index("</style>") :]
    used = set(re.findall(r"(fill|stroke): (#\w{6})", drawn))
    assert len(used) > 6
    assert used == rules.keys()
    assert all(dark != light for (_, light), dark in rules.items())
    inks = set(re.findall(r'<text [^>]*?style="[^"]*?fill: (#\w{6})', drawn))
    assert len(inks) >= 3
    for ink in inks:
        assert contrast(ink, "#ffffff") > 4.5
        assert contrast(rules["fill", ink], rules["fill", "#ffffff"]) > 4.5


def test_other_charts_can_be_files_too() -> None:
    content = standalone(line_chart("b", [Line("one", [1, 2, 3], [1.0, 2.0, 3.0])], "nats")).decode()
    assert ElementTree.fromstring(content).tag == f"{SVG}svg"
    assert "var(" not in content
