"""The page in a real browser: no complaints, charts one can see, nothing clipped, on wide and narrow screens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.evaluation.browser import CHROMEDRIVER, CHROMIUM, Browser
from tests.evaluation.stories import partial_stories, rendered

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver"),
]

# Boxes of every chart on the page, and of all text in them that sticks out of its card.
_CHARTS = """
return [...document.querySelectorAll("svg")].map(svg => {
  const box = svg.getBoundingClientRect(), card = svg.closest("figure, .hero").getBoundingClientRect();
  const out = [...svg.querySelectorAll("text")].filter(text => {
    const b = text.getBoundingClientRect();
    return b.left < card.left || b.right > card.right || b.top < card.top || b.bottom > card.bottom;
  });
  const ink = [...svg.querySelectorAll("path, use")].filter(path => path.getBoundingClientRect().width > 0);
  return {width: box.width, height: box.height, ink: ink.length, out: out.map(text => text.textContent)};
})
"""
# Elements wider than the room they have, in which text would be cut or run over its neighbour.
_CLIPPED = """
return [...document.querySelectorAll("main *:not(svg *)")].filter(element =>
  element.clientWidth > 0 && element.scrollWidth > element.clientWidth + 1 &&
  !element.closest("thead")).map(element => element.tagName + ": " + element.textContent.slice(0, 40))
"""
# Pairs of texts of one chart that run over each other by more than a hair.
_COLLIDING = """
return [...document.querySelectorAll("svg")].flatMap(svg => {
  const texts = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
  const shared = (a, b, low, high) => Math.min(a[high], b[high]) - Math.max(a[low], b[low]);
  return texts.flatMap(([one, a], index) => texts.slice(index + 1)
    .filter(([_, b]) => shared(a, b, "left", "right") > 1 && shared(a, b, "top", "bottom") > 3)
    .map(([other]) => one + " over " + other));
})
"""
_COLOURS = """
const style = element => getComputedStyle(element);
const line = document.querySelector("#training svg text");
return [style(document.body).backgroundColor, style(document.body).color, style(line).fill]
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(rendered("whole"), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 1024, 768, 400, 320])
def test_the_page_is_whole_at_every_width(browser: Browser, page: Path, width: int, scheme: str) -> None:
    browser.emulate(width=width, scheme=scheme)
    browser.open(page)
    assert browser.console() == []
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run(_CLIPPED) == []
    charts = browser.run(_CHARTS)
    assert len(charts) == 20
    for chart in charts:
        assert chart["width"] > 200
        assert chart["height"] > 100
        assert chart["ink"] > 3
        assert chart["out"] == []
    assert browser.screenshot().startswith(b"\x89PNG")


def test_light_and_dark_are_two_looks(browser: Browser, page: Path) -> None:
    looks = {}
    for scheme in ("light", "dark"):
        browser.emulate(width=1280, scheme=scheme)
        browser.open(page)
        looks[scheme] = browser.run(_COLOURS)
    assert all(light != dark for light, dark in zip(looks["light"], looks["dark"], strict=True))


def test_nothing_a_run_says_is_executed(browser: Browser, page: Path) -> None:
    browser.emulate(width=1280, scheme="light")
    browser.open(page)
    assert browser.run("return document.title") == "demo: sad-pipeline report"


def test_everything_unfolds(browser: Browser, page: Path) -> None:
    browser.emulate(width=400, scheme="light")
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert browser.run(_CLIPPED) == []


@pytest.mark.parametrize("width", [1280, 1024, 768, 400, 320])
@pytest.mark.parametrize("name", ["whole", "study alone"])
def test_names_in_a_chart_stay_apart(browser: Browser, tmp_path: Path, name: str, width: int) -> None:
    path = tmp_path / "report.html"
    path.write_text(rendered(name), encoding="utf-8")
    browser.emulate(width=width, scheme="light")
    browser.open(path)
    assert browser.run(_COLLIDING) == []


@pytest.mark.parametrize("name", partial_stories())
def test_partial_runs_look_whole_too(browser: Browser, tmp_path: Path, name: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(rendered(name), encoding="utf-8")
    browser.emulate(width=400, scheme="dark")
    browser.open(path)
    assert browser.console() == []
    assert browser.run(_CLIPPED) == []
    assert all(chart["out"] == [] for chart in browser.run(_CHARTS))
