"""Charts of the report: lines over steps, models on a scale, shares, bars, bands.

Series keep one colour through the whole page and differ in dash as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.canvas import (
    DASHES,
    MARKS,
    Axes,
    dress,
    few_ticks,
    fit,
    new_axes,
    new_figure,
    percent_text,
    steps_axis,
    svg_of,
    value_axis,
)
from pipeline.evaluation.series import Band, Chart, Colour, Key, Level, Line, Point, running_mean, thin

_SMOOTH_FROM = 40  # points from which a noisy line is drawn faint, under its running mean


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
    with new_figure() as figure:
        axes = new_axes(figure, unit)
        for line in lines:
            _draw_line(axes, line)
        for level in levels:
            axes.axhline(level.value, color=MARKS[level.colour], linestyle=DASHES["dotted"])
        value_axis(axes, log_y, percent)
        if from_zero:
            axes.set_ylim(0, 1.06 * max(float(np.max(thin(line.x, line.y)[1], initial=0)) for line in lines) or 1)
        steps_axis(axes, x_label)
        keys = [Key(line.label, line.colour, line.dash) for line in lines]
        return Chart(svg_of(figure, name), (*keys, *(Key(level.label, level.colour, "dotted") for level in levels)))


def scale_chart(name: str, points: Sequence[Point], unit: str) -> Chart:
    """Models as dots on one scale, each on its own row with its name and value; left is better."""
    values = [point.value for point in points]
    pad = 0.16 * ((max(values) - min(values)) or abs(values[0]) or 1.0)
    with new_figure(height=46 + 50 * len(points)) as figure:
        axes = new_axes(figure, "")
        axes.grid(False, axis="y")
        axes.grid(True, axis="x")
        axes.set_xlim(min(values) - pad, max(values) + pad)
        axes.set_ylim(len(points) - 0.55, -0.75)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(few_ticks())
        axes.set_xlabel(unit)
        for row, point in enumerate(points):
            colour = MARKS[point.colour]
            axes.axhline(row, color=MARKS["grid"], linewidth=3)
            axes.plot([point.value], [row], "o", color=colour, markersize=11, clip_on=False)
            axes.text(0, row - 0.24, fit(point.label, 30), transform=axes.get_yaxis_transform(), va="bottom")
            axes.text(1, row - 0.24, f"{point.value:.3f}", transform=axes.get_yaxis_transform(), va="bottom",
                      ha="right", fontweight="bold")  # fmt: skip
        return Chart(svg_of(figure, name))


def share_chart(name: str, curves: Sequence[tuple[str, Sequence[float], Colour]], x_label: str) -> Chart:
    """Cumulative shares: for histograms over 0..1, the share of all counts at or below each bin's upper edge."""
    with new_figure() as figure:
        axes = new_axes(figure, "share of positions")
        dashes = dict(zip((label for label, _, _ in curves), itertools.cycle(DASHES), strict=False))
        for label, counts, colour in curves:
            total = float(np.sum(counts)) or 1.0
            edges = np.linspace(0, 1, len(counts) + 1)
            heights = np.concatenate(([0.0], np.cumsum(counts) / total))
            axes.plot(edges, heights, color=MARKS[colour], linestyle=DASHES[dashes[label]])
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.tick_params(axis="x", pad=7)  # both axes begin with a 0%
        axes.xaxis.set_major_formatter(percent_text)
        axes.yaxis.set_major_formatter(percent_text)
        axes.set_xlabel(x_label)
        keys = tuple(Key(label, colour, dashes[label]) for label, _, colour in curves)
        return Chart(svg_of(figure, name), keys)


def bar_chart(
    name: str, labels: Sequence[str], values: Sequence[float], unit: str, x_label: str, log_y: bool = False
) -> Chart:
    """Upright bars over ordered categories, such as shards or quantiles."""
    with new_figure() as figure:
        axes = new_axes(figure, unit)
        axes.bar(range(len(values)), values, color=MARKS["student"], width=0.68)
        shown = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), 9)).round().astype(int))
        axes.set_xticks(shown, [labels[index] for index in shown])
        axes.set_xlabel(x_label)
        value_axis(axes, log_y)
        if not log_y:
            axes.set_ylim(bottom=0)
        return Chart(svg_of(figure, name))


def band_chart(name: str, bands: Sequence[Band], unit: str) -> Chart:
    """A quantity that is spread, one panel a band on one scale: its median, and the band most of it lies in."""
    with new_figure(height=54 + 82 * len(bands)) as figure:
        panels = figure.subplots(len(bands), sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, band in zip(panels, bands, strict=True):
            dress(axes, band.label, MARKS["ink"])
            _draw_band(axes, band)
            value_axis(axes, log_y=False)
            axes.yaxis.set_major_locator(few_ticks(3))
        panels[0].set_title(unit, loc="right", pad=8)
        tops = (float(np.max(thin(band.x, band.high)[1], initial=0)) for band in bands)
        panels[0].set_ylim(0, 1.06 * max(tops) or 1)
        steps_axis(panels[-1], "step")
        return Chart(svg_of(figure, name))


def _draw_band(axes: Axes, band: Band) -> None:
    x_N, middle_N = thin(band.x, band.middle)
    low_N, high_N = thin(band.x, band.low)[1], thin(band.x, band.high)[1]
    if len(x_N) >= _SMOOTH_FROM:
        low_N, middle_N, high_N = (running_mean(part_N) for part_N in (low_N, middle_N, high_N))
    colour, marker = MARKS[band.colour], "o" if len(x_N) <= 30 else ""
    axes.fill_between(x_N, low_N, high_N, color=colour, alpha=0.22, linewidth=0)
    axes.plot(x_N, middle_N, color=colour, marker=marker, markersize=4)


def _draw_line(axes: Axes, line: Line) -> None:
    x_N, y_N = thin(line.x, line.y)
    colour = MARKS[line.colour]
    style: dict[str, Any] = {"color": colour, "linestyle": DASHES[line.dash]}
    if line.noisy and len(x_N) >= _SMOOTH_FROM:
        axes.plot(x_N, y_N, color=colour, linewidth=1, alpha=0.3)
        axes.plot(x_N, running_mean(y_N), **style)
    else:
        marker = "o" if len(x_N) <= 30 else ""
        axes.plot(x_N, y_N, marker=marker, markersize=4, **style)
