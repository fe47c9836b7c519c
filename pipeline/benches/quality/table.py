"""What a study says, an arm a line, for people; and how each arm's gradient lies beside full distillation's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline.evaluation.study.findings import Finding, compare
from pipeline.evaluation.study.statistics import Interval

_HEADINGS = ("arm", "rate", "KL", "CE", "gain, %", "ppl lost, %", "CE - default", "bytes", "seeds")
_STUDENTS = {"start": "where all begin", "labels": "after labels", "full": "after full distillation"}
_WIDTH = 110  # where nothing says how wide it may be


def print_findings(machine: Mapping[str, Any], tables: Mapping[str, Mapping[str, Finding]]) -> None:
    """Print every study on stderr; intervals are of 95 %, nats a token."""
    console = Console(stderr=True)
    console = console if console.is_terminal else Console(stderr=True, width=_WIDTH)
    for title, findings in tables.items():
        chosen = [f"{finding.arm} is {finding.candidate}" for finding in findings.values() if finding.candidate]
        notes = [f"{machine['cpu']}, {machine['threads']} threads", *chosen, "* the lowest or highest rate tried"]
        notes += ["KL and CE over each arm's own seeds, differences and shares over those it has in common"]
        rows = [_cells(finding, findings) for finding in findings.values()]
        console.print(_table(f"bench quality: {title}", _HEADINGS, rows, "; ".join(notes)))
        if places := list(dict.fromkeys(place for finding in findings.values() for place in finding.gradients)):
            headings = ("arm", *(_STUDENTS.get(place, place) for place in places))
            angles = [_gradient_cells(finding, places) for finding in findings.values() if finding.gradients]
            console.print(_table(f"gradient beside full distillation's: {title}", headings, angles, "angle, norm"))


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> Table:
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "arm" else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _gradient_cells(finding: Finding, places: Sequence[str]) -> list[str]:
    """An arm, and its angle and norm at each student; nothing where it was not taken."""
    pairs = [finding.gradients.get(place) for place in places]
    return [finding.arm, *("" if pair is None else f"{pair[0]:.1f}°, {pair[1]:.2f}" for pair in pairs)]


def _cells(finding: Finding, findings: Mapping[str, Finding]) -> list[str]:
    found = compare(finding, findings)
    return [
        finding.arm,
        f"{finding.learning_rate:g}" + ("*" if finding.at_an_edge else ""),
        f"{found.kl_nats.mean:.4f}",
        f"{found.ce_nats.mean:.4f}",
        _text(found.kl_gain_share, 1, scale=100.0),
        _text(found.perplexity_lost, 2),
        _text(found.ce_vs_default, 4),
        "" if finding.bytes_per_token is None else f"{finding.bytes_per_token:.0f}",
        str(len(finding.students)),
    ]


def _text(interval: Interval | None, digits: int, scale: float = 1.0) -> str:
    """A mean and half the width of its interval; nothing where there is none."""
    if interval is None:
        return ""
    mean = f"{scale * interval.mean:.{digits}f}"
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean} ±{scale * (interval.high - interval.low) / 2:.{digits}f}"
