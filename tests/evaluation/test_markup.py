"""Elements escape what is not markup already."""

from __future__ import annotations

from pipeline.evaluation.markup import Markup, count_text, details, element, figure, join, table, tiles
from pipeline.evaluation.series import Chart, Key


def test_text_is_escaped_and_markup_is_not() -> None:
    assert element("p", "a < b & c", Markup("<br>")) == "<p>a &lt; b &amp; c<br></p>"
    assert element("a", "x", href='#"><script>', class_="k") == '<a href="#&quot;&gt;&lt;script&gt;" class="k">x</a>'
    assert element("meta", http_equiv="refresh", charset=None) == '<meta http-equiv="refresh">'


def test_joining_markup_to_text_makes_text_again() -> None:
    glued = Markup("<b>x</b>") + "<i>"
    assert join([glued]) == "&lt;b&gt;x&lt;/b&gt;&lt;i&gt;"


def test_cells_know_their_column_for_narrow_screens() -> None:
    written = table(["model", "loss"], [["a", "1"], ["b", "2"]], ["", "best"])
    assert '<th scope="row">a</th><td data-label="loss">1</td>' in written
    assert '<tr class="best"><th scope="row">b</th>' in written


def test_a_legend_is_there_only_for_several_series() -> None:
    keys = (Key("one", "student"), Key("two", "baseline", "dashed"))
    assert "legend" not in figure("t", Chart("<svg></svg>", keys[:1]))
    written = figure("t", Chart("<svg></svg>", keys), "said")
    assert '<i style="--key:var(--baseline)" class="dashed"></i>two' in written
    assert "<figcaption>said</figcaption>" in written


def test_counts_fit_a_tile() -> None:
    assert [count_text(count) for count in (0, 9_999_999, 12_345_678, 45_600_000_000)] == [
        "0", "9,999,999", "12.3M", "45.6B",
    ]  # fmt: skip


def test_tiles_and_details() -> None:
    assert tiles([("1", "one")]) == '<dl class="tiles"><div><dt>one</dt><dd>1</dd></div></dl>'
    assert details("more", "text") == "<details><summary>more</summary>text</details>"
