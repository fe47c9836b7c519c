"""Charts of the report as SVG: no scripts, no network, the same bytes every time, legible in light and in dark.

Colours leave matplotlib as marks and are turned into the CSS variables of page.css, so a chart takes the colours of
the page around it; text stays text in the page's own font. Every chart is drawn on a canvas about 420 units wide,
which fits a phone at nearly full size. Series keep one colour through the whole page and differ in dash as well.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import Formatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from pipeline.evaluation.series import Chart, Colour, Dash, Key, Level, Line, Point, Spot, running_mean, thin

WIDTH, HEIGHT = 420, 236
_SMOOTH_FROM = 40  # points from which a noisy line is drawn faint, under its running mean
_POINTS_PER_INCH = 72

_DASHES: dict[Dash, Any] = {"solid": "-", "dashed": (0, (4, 2)), "dotted": (0, (1, 1.6))}
_MARKS: dict[Colour, str] = {
    "ink": "#010101",
    "muted": "#010102",
    "grid": "#010103",
    "teacher": "#010104",
    "student": "#010105",
    "second": "#010106",
    "baseline": "#010107",
    "extra": "#010108",
    "rest": "#010109",
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sad-pipeline",
    "font.family": "DejaVu Sans",
    "font.size": 11.5,
    "text.color": _MARKS["ink"],
    "text.parse_math": False,
    "axes.edgecolor": _MARKS["grid"],
    "axes.facecolor": "none",
    "axes.formatter.use_mathtext": False,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": _MARKS["muted"],
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.labelcolor": _MARKS["muted"],
    "axes.labelsize": 11.5,
    "axes.unicode_minus": True,
    "grid.color": _MARKS["grid"],
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "xtick.color": _MARKS["grid"],
    "xtick.labelcolor": _MARKS["muted"],
    "ytick.color": "none",
    "ytick.labelcolor": _MARKS["muted"],
}


def line_chart(
    name: str,
    lines: Sequence[Line],
    unit: str,
    levels: Sequence[Level] = (),
    log_y: bool = False,
    from_zero: bool = False,
    percent: bool = False,
    x_label: str = "step",
) -> Chart:
    """Series over training steps; `name` makes the element ids unique within the page."""
    with _figure() as figure:
        axes = _axes(figure, unit)
        for line in lines:
            _draw_line(axes, line)
        for level in levels:
            axes.axhline(level.value, color=_MARKS[level.colour], linestyle=_DASHES["dotted"])
        _value_axis(axes, log_y, percent)
        if from_zero:
            axes.set_ylim(0, 1.06 * max(float(np.max(thin(line.x, line.y)[1], initial=0)) for line in lines) or 1)
        _steps_axis(axes, x_label)
        keys = [Key(line.label, line.colour, line.dash) for line in lines]
        return Chart(_svg(figure, name), (*keys, *(Key(level.label, level.colour, "dotted") for level in levels)))


def scale_chart(name: str, points: Sequence[Point], unit: str) -> Chart:
    """Models as dots on one scale, each on its own row with its name and value; left is better."""
    values = [point.value for point in points]
    pad = 0.16 * ((max(values) - min(values)) or abs(values[0]) or 1.0)
    with _figure(height=46 + 50 * len(points)) as figure:
        axes = _axes(figure, "")
        axes.grid(False, axis="y")
        axes.grid(True, axis="x")
        axes.set_xlim(min(values) - pad, max(values) + pad)
        axes.set_ylim(len(points) - 0.55, -0.75)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(_few_ticks())
        axes.set_xlabel(unit)
        for row, point in enumerate(points):
            colour = _MARKS[point.colour]
            axes.axhline(row, color=_MARKS["grid"], linewidth=3)
            axes.plot([point.value], [row], "o", color=colour, markersize=11, clip_on=False)
            axes.text(0, row - 0.24, _fit(point.label, 30), transform=axes.get_yaxis_transform(), va="bottom")
            axes.text(1, row - 0.24, f"{point.value:.3f}", transform=axes.get_yaxis_transform(), va="bottom",
                      ha="right", fontweight="bold")  # fmt: skip
        return Chart(_svg(figure, name))


def scatter_chart(name: str, spots: Sequence[Spot], unit: str, levels: Sequence[Level], x_label: str) -> Chart:
    """Named spots, their x on a scale of powers, their y as shares; levels to compare with."""
    with _figure() as figure:
        axes = _axes(figure, unit)
        for level in levels:
            axes.axhline(level.value, color=_MARKS[level.colour], linestyle=_DASHES["dotted"])
        for spot in spots:
            colour = _MARKS[spot.colour]
            if spot.ends is not None:
                axes.plot([spot.x, spot.x], spot.ends, color=colour, linewidth=1.2)
            axes.plot([spot.x], [spot.y], "o", color=colour, markersize=7)
            axes.annotate(_fit(spot.label, 20), (spot.x, spot.y), (5, -12), textcoords="offset points", fontsize=9)
        axes.set_xscale("log")
        axes.margins(x=0.14, y=0.12)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(_Short())
        axes.set_xlabel(x_label)
        _value_axis(axes, log_y=False, percent=True)
        return Chart(_svg(figure, name), tuple(Key(level.label, level.colour, "dotted") for level in levels))


def standalone(chart: Chart) -> bytes:
    """A chart as an SVG file that needs no page around it: on white, with the colours of a page in the light."""
    css = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    light = css[css.index("{") + 1 : css.index("}")]
    tag, _, rest = chart.svg.partition(">")
    left, top, width, height = tag.partition('viewBox="')[2].partition('"')[0].split()
    paper = f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="#fff"/>'
    size = f' xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    return f"{tag}{size}><style>svg {{{light}}}</style>{paper}{rest}\n".encode()


def share_chart(name: str, curves: Sequence[tuple[str, Sequence[float], Colour]], x_label: str) -> Chart:
    """Cumulative shares: for histograms over 0..1, the share of all counts at or below each bin's upper edge."""
    with _figure() as figure:
        axes = _axes(figure, "share of positions")
        dashes = dict(zip((label for label, _, _ in curves), itertools.cycle(_DASHES), strict=False))
        for label, counts, colour in curves:
            total = float(np.sum(counts)) or 1.0
            edges = np.linspace(0, 1, len(counts) + 1)
            heights = np.concatenate(([0.0], np.cumsum(counts) / total))
            axes.plot(edges, heights, color=_MARKS[colour], linestyle=_DASHES[dashes[label]])
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.xaxis.set_major_formatter(FuncFormatter(_percent))
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        axes.set_xlabel(x_label)
        keys = tuple(Key(label, colour, dashes[label]) for label, _, colour in curves)
        return Chart(_svg(figure, name), keys)


def bar_chart(
    name: str, labels: Sequence[str], values: Sequence[float], unit: str, x_label: str, log_y: bool = False
) -> Chart:
    """Upright bars over ordered categories, such as shards or quantiles."""
    with _figure() as figure:
        axes = _axes(figure, unit)
        axes.bar(range(len(values)), values, color=_MARKS["student"], width=0.68)
        shown = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), 9)).round().astype(int))
        axes.set_xticks(shown, [labels[index] for index in shown])
        axes.set_xlabel(x_label)
        _value_axis(axes, log_y)
        if not log_y:
            axes.set_ylim(bottom=0)
        return Chart(_svg(figure, name))


# ------------------------------------------------------------------ drawing


@contextmanager
def _figure(height: float = HEIGHT) -> Iterator[Figure]:
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # Letters DejaVu lacks are measured as boxes, but drawn by the browser in a font that has them.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        layout = ConstrainedLayoutEngine(w_pad=2 / _POINTS_PER_INCH, h_pad=3 / _POINTS_PER_INCH)
        figure = Figure(figsize=(WIDTH / _POINTS_PER_INCH, height / _POINTS_PER_INCH), layout=layout)
        figure.patch.set_visible(False)
        FigureCanvasSVG(figure)
        yield figure


def _axes(figure: Figure, unit: str) -> Axes:
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.grid(True, axis="y")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0, pad=4)
    axes.tick_params(axis="x", length=4)
    if unit:
        axes.set_title(unit, pad=8, x=0, ha="left")
    return axes


def _draw_line(axes: Axes, line: Line) -> None:
    x_N, y_N = thin(line.x, line.y)
    colour = _MARKS[line.colour]
    style: dict[str, Any] = {"color": colour, "linestyle": _DASHES[line.dash]}
    if line.noisy and len(x_N) >= _SMOOTH_FROM:
        axes.plot(x_N, y_N, color=colour, linewidth=1, alpha=0.3)
        axes.plot(x_N, running_mean(y_N), **style)
    else:
        marker = "o" if len(x_N) <= 30 else ""
        axes.plot(x_N, y_N, marker=marker, markersize=4, **style)


def _steps_axis(axes: Axes, label: str) -> None:
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(_few_ticks(integer=True))
    axes.xaxis.set_major_formatter(_Short())
    axes.set_xlabel(label)


def _value_axis(axes: Axes, log_y: bool, percent: bool = False) -> None:
    if log_y:
        low, high = axes.get_ylim()
        few_decades = high < 200 * low
        axes.set_yscale("log", subs=[])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few_decades else (1,), numticks=9))
    else:
        axes.yaxis.set_major_locator(_few_ticks())
    axes.yaxis.set_major_formatter(FuncFormatter(_percent) if percent else _Short())


def _few_ticks(integer: bool = False) -> MaxNLocator:
    return MaxNLocator(5, steps=[1, 2, 5, 10], integer=integer)


class _Short(Formatter):
    """Tick texts with as few characters as tell the ticks apart: 0.25, 12, 3,400, 34k, 1.2M."""

    def __call__(self, value: float, pos: int | None = None) -> str:
        return _short(value, 3)

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """All ticks of an axis together."""
        for digits in range(3, 9):
            texts = [_short(value, digits) for value in values]
            if len(set(texts)) == len(set(values)):
                break
        return texts


def _short(value: float, digits: int) -> str:
    for bound, scale, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= bound:
            return f"{value / scale:.{digits}g}{suffix}"
    text = f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _percent(value: float, _: int | None = None) -> str:
    return f"{100 * value:.3g}%"


def _fit(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"


# ------------------------------------------------------------------ from matplotlib's SVG to the page's


def _svg(figure: Figure, name: str) -> str:
    """The figure as an element of a page: no prologue, no metadata, unique ids, the page's colours and font."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)  # a rule for the whole page
    text = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", text)
    text = re.sub(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', _open_tag, text, count=1, flags=re.DOTALL)
    for colour, mark in _MARKS.items():
        text = text.replace(mark, f"var(--{colour})")
    return re.sub(r"\n\s*", "\n", text).strip()


def _open_tag(match: re.Match[str]) -> str:
    return f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{match[1]}" aria-hidden="true">'
