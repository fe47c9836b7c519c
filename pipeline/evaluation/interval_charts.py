"""Charts of estimates with the intervals they lie in: against a size, and one below another.

A view shows every estimate and whole intervals, up to bounds it is given: what lies beyond is marked by an arrow at
the edge, so that one far off does not press all others together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.canvas import (
    DASHES,
    FONT_SIZE,
    MARKS,
    WIDTH,
    Axes,
    Figure,
    few_ticks,
    fit,
    new_axes,
    new_figure,
    percent_text,
    sizes_axis,
    svg_of,
    value_axis,
)
from pipeline.evaluation.placing import Box, Place, Point, place
from pipeline.evaluation.series import Chart, Estimate, Level, Spot

_NARROW = 13.5 / FONT_SIZE  # how much larger page.css sets the text of a chart on a narrow screen
_GAPS = (7, 16, 28, 42, 58, 76, 96)  # between a spot and its name, the nearest first
_FAR = 16  # a gap from which a thin line leads to the name
_MOST_SHARE, _LEAST_HEIGHT = 9.99, 180
_SPOT, _LINE = 5, 2  # half of how wide they are

Bounds = tuple[float, float]


def scatter_chart(
    name: str,
    spots: Sequence[Spot],
    unit: str,
    levels: Sequence[Level],
    x_label: str,
    bounds: Bounds,
    size: tuple[float, float] = (WIDTH, 300),
) -> Chart:
    """Named spots: shares over sizes, with their intervals upright; levels to compare with, named where they are."""
    width, height = size
    with new_figure(height, width) as figure:
        axes = new_axes(figure, unit)
        low, high = _view([spot.worth for spot in spots], levels, bounds)
        axes.set_ylim(low, high)
        sizes_axis(axes, min(spot.size for spot in spots), max(spot.size for spot in spots), x_label)
        value_axis(axes, log_y=False, percent=True)
        for level in levels:
            axes.axhline(level.value, color=MARKS[level.colour], linestyle=DASHES["dotted"])
        for spot in spots:
            _draw_upright(axes, spot, low, high)
        _name_all(figure, axes, spots, levels)
        return Chart(svg_of(figure, name))


def interval_chart(
    name: str, estimates: Sequence[Estimate], levels: Sequence[Level], x_label: str, bounds: Bounds
) -> Chart:
    """Shares one below another, each on its own row with its name, interval and value; levels named above."""
    with new_figure(height=max(_LEAST_HEIGHT, 70 + 23 * len(estimates))) as figure:
        axes = new_axes(figure, "")
        axes.grid(False, axis="y")
        axes.grid(True, axis="x")
        low, high = _view(estimates, levels, bounds)
        axes.set_xlim(low, high)
        axes.set_ylim(len(estimates) - 0.4, -0.6)
        axes.set_yticks(range(len(estimates)), [fit(estimate.label, 18) for estimate in estimates])
        axes.tick_params(axis="y", labelcolor=MARKS["ink"])
        axes.xaxis.set_major_locator(few_ticks())
        axes.xaxis.set_major_formatter(percent_text)
        axes.set_xlabel(x_label)
        for level in levels:
            axes.axvline(level.value, color=MARKS[level.colour], linestyle=DASHES["dotted"])
            above: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "bottom"}
            axes.text(level.value, 1.01, level.label, color=MARKS[level.colour], **above)
        for row, estimate in enumerate(estimates):
            _draw_flat(axes, row, estimate, low, high)
            beside: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "ha": "left", "va": "center"}
            axes.text(1.03, row, _share_text(estimate.value), **beside)
        return Chart(svg_of(figure, name))


# ------------------------------------------------------------------ the view


def _view(estimates: Sequence[Estimate], levels: Sequence[Level], bounds: Bounds) -> tuple[float, float]:
    """From where to where an axis goes: over all there is, within the bounds, and a little more."""
    values = [level.value for level in levels]
    values += [value for each in estimates for value in (each.value, *(each.ends or ()))]
    low, high = max(bounds[0], min(values)), min(bounds[1], max(values))
    pad = 0.07 * (high - low) or 0.05
    return low - pad, high + pad


def _share_text(share: float) -> str:
    """A share beside its row, short however far off it is."""
    sign = "" if abs(share) <= _MOST_SHARE else "> " if share > 0 else "< "
    return sign + f"{np.clip(share, -_MOST_SHARE, _MOST_SHARE):.0%}".replace("-", "\N{MINUS SIGN}")


def _draw_upright(axes: Axes, spot: Spot, low: float, high: float) -> None:
    worth, colour = spot.worth, MARKS[spot.worth.colour]
    if worth.ends is not None:
        axes.plot([spot.size] * 2, np.clip(worth.ends, low, high), color=colour, linewidth=1.2, solid_capstyle="butt")
    for edge, marker in _beyond(worth, low, high, ("v", "^")):
        axes.plot([spot.size], [edge], marker, color=colour, markersize=5, clip_on=False)
    if low <= worth.value <= high:
        axes.plot([spot.size], [worth.value], "o", color=colour, markersize=7)


def _draw_flat(axes: Axes, row: int, estimate: Estimate, low: float, high: float) -> None:
    colour = MARKS[estimate.colour]
    if estimate.ends is not None:
        axes.plot(np.clip(estimate.ends, low, high), [row] * 2, color=colour, linewidth=1.6, solid_capstyle="butt")
    for edge, marker in _beyond(estimate, low, high, ("<", ">")):
        axes.plot([edge], [row], marker, color=colour, markersize=6, clip_on=False)
    if low <= estimate.value <= high:
        axes.plot([estimate.value], [row], "o", color=colour, markersize=7)


def _beyond(estimate: Estimate, low: float, high: float, markers: tuple[str, str]) -> Iterator[tuple[float, str]]:
    """The edges of the view past which a value or an end of its interval lies, each with its arrow."""
    values = (estimate.value, *(estimate.ends or ()))
    if min(values) < low:
        yield low, markers[0]
    if max(values) > high:
        yield high, markers[1]


# ------------------------------------------------------------------ names beside spots


def _name_all(figure: Figure, axes: Axes, spots: Sequence[Spot], levels: Sequence[Level]) -> None:
    """Every spot and level gets its name where it covers nothing."""
    figure.draw_without_rendering()  # lays out: from here on a place in the data is a place on the canvas
    frame = Box(*axes.get_window_extent().extents)
    points = [_point(axes, spot.size, spot.worth.value) for spot in spots]
    heights = [_point(axes, spots[0].size, level.value)[1] for level in levels]
    names = [fit(spot.worth.label, 24) for spot in spots]
    taken = [Box(x - _SPOT, y - _SPOT, x + _SPOT, y + _SPOT) for x, y in points]
    lines = [Box(frame.left, y - _LINE, frame.right, y + _LINE) for y in heights]
    lines += [_whisker(axes, spot.size, spot.worth.ends) for spot in spots if spot.worth.ends is not None]
    wishes = [_around(point, _room(axes, text), frame) for point, text in zip(points, names, strict=True)]
    wishes += [_along(y, _room(axes, level.label), frame) for y, level in zip(heights, levels, strict=True)]
    found = [places[index] for places, index in zip(wishes, place(wishes, taken, lines), strict=True)]
    for each, text, point in zip(found, names, points, strict=False):
        if each.lead is not None:
            line_22 = axes.transData.inverted().transform(each.lead)
            axes.plot(*line_22.T, color=MARKS["muted"], linewidth=0.7, zorder=1)
        _write(axes, each.box, text, MARKS["ink"], point[0])
    for each, level in zip(found[len(spots) :], levels, strict=True):
        _write(axes, each.box, level.label, MARKS[level.colour], frame.left)


def _point(axes: Axes, x: float, y: float) -> Point:
    """Where something is on the canvas; at the edge of the view where it lies beyond."""
    left, top = axes.transData.transform((x, np.clip(y, *axes.get_ylim()))).tolist()
    return left, top


def _whisker(axes: Axes, x: float, ends: tuple[float, float]) -> Box:
    (middle, bottom), (_, top) = (_point(axes, x, end) for end in ends)
    return Box(middle - _LINE, bottom, middle + _LINE, top)


def _room(axes: Axes, text: str) -> tuple[float, float]:
    """Width and height a name needs, also where the page sets it larger."""
    written = axes.annotate(text, (0, 0), xycoords="figure pixels")
    width = written.get_window_extent().width
    written.remove()
    return _NARROW * width, 1.25 * _NARROW * FONT_SIZE


def _around(point: Point, room: tuple[float, float], frame: Box) -> list[Place]:
    """Places for the name of a spot, the nearest first, those within the frame alone where there are any."""
    (x, y), (width, height) = point, room
    boxes = []
    for gap in _GAPS:
        right, left, middle = x + gap, x - gap - width, x - width / 2
        above, below, beside = y + gap, y - gap - height, y - height / 2
        for start, bottom in (
            (right, beside), (left, beside), (right - gap / 2, above), (right - gap / 2, below),
            (left + gap / 2, above), (left + gap / 2, below),
            *(((middle, above), (middle, below)) if gap < _FAR else ()),  # farther, its interval would hide the lead
        ):  # fmt: skip
            boxes.append(Box(start, bottom, start + width, bottom + height))
    places = [Place(box, _lead(point, box)) for box in boxes]
    return [each for each in places if frame.holds(each.box)] or places


def _along(y: float, room: tuple[float, float], frame: Box) -> list[Place]:
    """Places for the name of a level: at the ends of its line, then nearer to its middle, above and below."""
    width, height = room
    starts = [frame.left + share * (frame.right - frame.left - width) for share in (0, 1, 0.2, 0.8, 0.4, 0.6)]
    boxes = [Box(start, y + 3, start + width, y + 3 + height) for start in starts]
    boxes += [Box(start, y - 3 - height, start + width, y - 3) for start in starts]
    return [Place(box) for box in boxes if frame.holds(box)] or [Place(box) for box in boxes]


def _lead(point: Point, box: Box) -> tuple[Point, Point] | None:
    """From the rim of a spot to the nearest point of a name that stands far off."""
    end = (min(max(point[0], box.left), box.right), min(max(point[1], box.bottom), box.top))
    distance = math.dist(point, end)
    if distance < _FAR:
        return None
    share = 1.5 * _SPOT / distance
    return (point[0] + share * (end[0] - point[0]), point[1] + share * (end[1] - point[1])), end


def _write(axes: Axes, box: Box, text: str, colour: str, x: float) -> None:
    """Text in its box, growing away from `x` where it is larger than was thought."""
    side, align = (box.left, "left") if box.left >= x else (box.right, "right") if box.right <= x else (None, "center")
    at = ((box.left + box.right) / 2 if side is None else side, (box.bottom + box.top) / 2)
    paper = {"facecolor": MARKS["card"], "edgecolor": "none", "alpha": 0.8, "pad": 0.5}  # a line behind stays legible
    written = axes.annotate(text, at, xycoords="figure pixels", color=colour, ha=align, va="center", bbox=paper)
    written.set_in_layout(False)
