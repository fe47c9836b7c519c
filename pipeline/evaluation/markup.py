"""HTML made of elements; text is escaped unless it is Markup already, so nothing a run contains can become a tag."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from pipeline.evaluation.series import Chart

_VOID = frozenset({"br", "meta", "hr"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: str | None) -> Markup:
    """`<name ...>children</name>`; an attribute `data_label` is written data-label, `class_` class, None not at all."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(parts: Iterable[str]) -> Markup:
    """The parts one after another, each escaped unless it is Markup."""
    return Markup("".join(part if isinstance(part, Markup) else html.escape(part, quote=False) for part in parts))


def section(anchor: str, title: str, *children: str, lead: str = "") -> Markup:
    """A titled part of the page with a sentence under its heading."""
    head = [element("h2", title)]
    if lead:
        head.append(element("p", lead, class_="lead"))
    return element("section", *head, *children, id=anchor)


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], row_classes: Sequence[str] = (), words: bool = False
) -> Markup:
    """A table whose first column names the row; on a narrow screen every row becomes a card with labelled cells.

    Cells hold figures, set to the right, or `words`, set to the left.
    """
    head = element("thead", element("tr", *(element("th", heading, scope="col") for heading in headings)))
    body = []
    for index, cells in enumerate(rows):
        first = element("th", cells[0], scope="row")
        rest = [element("td", cell, data_label=heading) for heading, cell in zip(headings[1:], cells[1:], strict=True)]
        body.append(element("tr", first, *rest, class_=row_classes[index] if row_classes else None))
    return element(
        "div", element("table", head, element("tbody", *body), class_="words" if words else None), class_="scroll"
    )


def figure(title: str, chart: Chart, caption: str = "") -> Markup:
    """A chart with its title, its legend (where it has more than one series) and a sentence."""
    parts = [element("h3", title)]
    if len(chart.keys) > 1:
        keys = [
            element(
                "li",
                element("i", style=f"--key:var(--{key.colour})", class_=key.dash),
                key.label,
            )
            for key in chart.keys
        ]
        parts.append(element("ul", *keys, class_="legend"))
    parts.append(Markup(chart.svg))
    if caption:
        parts.append(element("figcaption", caption))
    return element("figure", *parts)


def tiles(facts: Iterable[tuple[str, str]]) -> Markup:
    """Figures with their names: `(value, name)`."""
    return element(
        "dl", *(element("div", element("dt", name), element("dd", value)) for value, name in facts), class_="tiles"
    )


def count_text(count: int) -> str:
    """A count that fits a tile: written out below ten million, then 12.3M, 45.6B."""
    for bound, size, suffix in ((10**10, 10**9, "B"), (10**7, 10**6, "M")):
        if count >= bound:
            return f"{count / size:,.1f}{suffix}"
    return f"{count:,}"


def details(summary: str, *children: str) -> Markup:
    """A part that unfolds."""
    return element("details", element("summary", summary), *children)


def code(text: str) -> Markup:
    """A block of commands or configuration."""
    return element("pre", element("code", text), tabindex="0")
