"""What every chart is drawn on, and how it becomes SVG: no scripts, no network, the same bytes every time.

Colours leave matplotlib as marks and are turned into the CSS variables of page.css, so a chart takes the colours of
the page around it, in light and in dark; text stays text in the page's own font. A canvas is about 420 units wide,
which fits a phone at nearly full size; one unit is one pixel of matplotlib's.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes as Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import Formatter, LogLocator, MaxNLocator, NullLocator

from pipeline.evaluation.series import Colour, Dash

WIDTH, HEIGHT = 420, 236
FONT_SIZE = 11.5
_POINTS_PER_INCH = 72
_FAR_APART = 3.0  # largest over smallest size from which a scale of powers tells more

DASHES: dict[Dash, Any] = {"solid": "-", "dashed": (0, (4, 2)), "dotted": (0, (1, 1.6))}
MARKS: dict[Colour, str] = {
    "ink": "#010101",
    "muted": "#010102",
    "grid": "#010103",
    "teacher": "#010104",
    "student": "#010105",
    "second": "#010106",
    "baseline": "#010107",
    "extra": "#010108",
    "rest": "#010109",
    "card": "#010110",
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sad-pipeline",
    "font.family": "DejaVu Sans",
    "font.size": FONT_SIZE,
    "text.color": MARKS["ink"],
    "text.parse_math": False,
    "axes.edgecolor": MARKS["grid"],
    "axes.facecolor": "none",
    "axes.formatter.use_mathtext": False,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": MARKS["muted"],
    "axes.titlesize": FONT_SIZE,
    "axes.titlelocation": "left",
    "axes.labelcolor": MARKS["muted"],
    "axes.labelsize": FONT_SIZE,
    "axes.unicode_minus": True,
    "grid.color": MARKS["grid"],
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "xtick.color": MARKS["grid"],
    "xtick.labelcolor": MARKS["muted"],
    "ytick.color": "none",
    "ytick.labelcolor": MARKS["muted"],
}


# ------------------------------------------------------------------ drawing


@contextmanager
def new_figure(height: float = HEIGHT, width: float = WIDTH) -> Iterator[Figure]:
    """A figure that is drawn on and turned into SVG while the project's style holds."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # Letters DejaVu lacks are measured as boxes, but drawn by the browser in a font that has them.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        layout = ConstrainedLayoutEngine(w_pad=2 / _POINTS_PER_INCH, h_pad=3 / _POINTS_PER_INCH)
        size = (width / _POINTS_PER_INCH, height / _POINTS_PER_INCH)
        figure = Figure(figsize=size, dpi=_POINTS_PER_INCH, layout=layout)
        figure.patch.set_visible(False)
        FigureCanvasSVG(figure)
        yield figure


def new_axes(figure: Figure, unit: str) -> Axes:
    """The one pair of axes of a figure, with the unit of what is upright above it."""
    axes = figure.add_subplot()
    dress(axes, unit)
    return axes


def dress(axes: Axes, title: str, title_colour: str = MARKS["muted"]) -> None:
    """Horizontal lines behind what is drawn, and a title at the left."""
    axes.patch.set_visible(False)
    axes.grid(True, axis="y")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0, pad=4)
    axes.tick_params(axis="x", length=4)
    if title:
        axes.set_title(title, pad=8, x=0, ha="left", color=title_colour)


def steps_axis(axes: Axes, label: str) -> None:
    """Whole numbers along the bottom."""
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(few_ticks(integer=True))
    axes.xaxis.set_major_formatter(ShortFormatter())
    axes.set_xlabel(label)


def value_axis(axes: Axes, log_y: bool, percent: bool = False) -> None:
    """Few ticks on the left: equal steps, powers, or shares."""
    if log_y:
        low, high = axes.get_ylim()
        few_decades = high < 200 * low
        axes.set_yscale("log", subs=[])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few_decades else (1,), numticks=9))
    else:
        axes.yaxis.set_major_locator(few_ticks())
    axes.yaxis.set_major_formatter(percent_text if percent else ShortFormatter())


def sizes_axis(axes: Axes, low: float, high: float, label: str) -> None:
    """Sizes from `low` to `high` along the bottom, on a scale of powers where they lie far apart."""
    if high > _FAR_APART * low:
        pad = (high / low) ** 0.08
        axes.set_xscale("log")
        axes.set_xlim(low / pad, high * pad)
        digits = (1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 7)
        axes.xaxis.set_major_locator(LogLocator(subs=digits, numticks=9))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        pad = 0.1 * (high - low) or 0.1 * high
        axes.set_xlim(low - pad, high + pad)
        axes.xaxis.set_major_locator(few_ticks())
    axes.xaxis.set_major_formatter(ShortFormatter())
    axes.set_xlabel(label)


def few_ticks(count: int = 5, integer: bool = False) -> MaxNLocator:
    """About so many."""
    return MaxNLocator(count, steps=[1, 2, 5, 10], integer=integer)


class ShortFormatter(Formatter):
    """Tick texts with as few characters as tell the ticks apart: 0.25, 12, 3,400, 34k, 1.2M."""

    def __call__(self, value: float, pos: int | None = None) -> str:
        return _short(value, 3)

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """All ticks of an axis together."""
        texts: list[str] = []
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


def percent_text(value: float, _: float | None = None) -> str:
    """A share as a tick says it."""
    return f"{100 * value:.3g}%".replace("-", "\N{MINUS SIGN}")


def fit(text: str, characters: int) -> str:
    """A name, cut where it is too long for its place."""
    return text if len(text) <= characters else text[: characters - 1] + "…"


# ------------------------------------------------------------------ from matplotlib's SVG to the page's


def svg_of(figure: Figure, name: str) -> str:
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
    for colour, mark in MARKS.items():
        text = text.replace(mark, f"var(--{colour})")
    return re.sub(r"\n\s*", "\n", text).strip()


def _open_tag(match: re.Match[str]) -> str:
    return f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{match[1]}" aria-hidden="true">'
