"""What a study says, an arm a line, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline.evaluation.study.findings import Finding, compare
from pipeline.evaluation.study.statistics import Interval

_HEADINGS = ("arm", "rate", "KL", "CE", "gain, %", "ppl lost, %", "CE - default", "angle", "bytes", "seeds")
_WIDTH = 110  # where nothing says how wide it may be


def print_findings(machine: Mapping[str, Any], tables: Mapping[str, Mapping[str, Finding]]) -> None:
    """Print every study on stderr; intervals are of 95 %, nats a token, angles at full distillation's student."""
    console = Console(stderr=True)
    console = console if console.is_terminal else Console(stderr=True, width=_WIDTH)
    for title, findings in tables.items():
        chosen = [f"{finding.arm} is {finding.candidate}" for finding in findings.values() if finding.candidate]
        notes = [f"{machine['cpu']}, {machine['threads']} threads", *chosen, "* the lowest or highest rate tried"]
        table = Table(title=f"bench quality: {title}", caption="; ".join(notes), box=SIMPLE_HEAD, pad_edge=False)
        for heading in _HEADINGS:
            table.add_column(heading, justify="left" if heading == "arm" else "right")
        for finding in findings.values():
            table.add_row(*_cells(finding, findings))
        console.print(table)


def _cells(finding: Finding, findings: Mapping[str, Finding]) -> list[str]:
    found = compare(finding, findings)
    degrees = finding.gradients.get("full", (None, None))[0]
    return [
        finding.arm,
        f"{finding.learning_rate:g}" + ("*" if finding.at_an_edge else ""),
        f"{found.kl_nats.mean:.4f}",
        f"{found.ce_nats.mean:.4f}",
        _text(found.kl_gain_share, 1, scale=100.0),
        _text(found.perplexity_lost, 2),
        _text(found.ce_vs_default, 4),
        "" if degrees is None else f"{degrees:.1f}°",
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
