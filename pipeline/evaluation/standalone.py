"""A chart as a file of its own, for a page that is not ours: a README, a browser, a picture viewer."""

from __future__ import annotations

import re
from importlib import resources

from pipeline.evaluation.series import Chart

_MARGIN, _CORNER = 14.0, 10.0
_SANS = "'Inter', 'Segoe UI', 'Helvetica Neue', 'Noto Sans', 'DejaVu Sans', Arial, sans-serif"


def standalone(chart: Chart) -> bytes:
    """An SVG file on paper of its own, so that it is legible on a white page and on a dark one.

    It has the light colours of the report written out, which every viewer knows; one that is asked for dark colours,
    and says so to pictures, gets the dark ones, paper included.
    """
    light, dark = _schemes()
    tag, _, rest = chart.svg.partition(">")
    box = tag.partition('viewBox="')[2].partition('"')[0].split()
    left, top, width, height = (float(number) for number in box)
    width, height = width + 2 * _MARGIN, height + 2 * _MARGIN
    left, top = left - _MARGIN, top - _MARGIN
    paper = (
        f'<rect x="{left + 0.5:g}" y="{top + 0.5:g}" width="{width - 1:g}" height="{height - 1:g}" rx="{_CORNER:g}" '
        'style="fill: var(--card); stroke: var(--line)"/>'
    )
    drawn = (paper + rest).replace("var(--sans)", _SANS)
    names = sorted(set(re.findall(r"var\(--(\w+)\)", drawn)))
    rules = [
        f'[style*="{side}: {light[name]}"]{{{side}:{dark[name]}!important}}'
        for name in names
        for side in ("fill", "stroke")
        if f"{side}: var(--{name})" in drawn
    ]
    for name in names:
        drawn = drawn.replace(f"var(--{name})", light[name])
    open_tag = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left:g} {top:g} {width:g} {height:g}" width="{width:g}" height="{height:g}">'
    )
    style = f"<style>@media (prefers-color-scheme: dark) {{{' '.join(rules)}}}</style>"
    return f"{open_tag}{style}{drawn}\n".encode()


def _schemes() -> tuple[dict[str, str], dict[str, str]]:
    """The colours of page.css by name, in the light and in the dark."""
    css = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--(\w+): (#\w+);", block)) for block in re.findall(r":root {([^}]*)}", css))
    assert light.keys() == dark.keys()
    return light, dark
