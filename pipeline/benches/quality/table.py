"""What a study says, an arm a line, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.benches.quality.findings import Finding, compare
from pipeline.benches.quality.statistics import Interval

_HEADINGS = (
    "arm", "rate", "KL", "CE", "share of the gain", "perplexity lost", "CE - default", "angle", "bytes", "seeds",
)  # fmt: skip


def print_findings(machine: Mapping[str, Any], tables: Mapping[str, Mapping[str, Finding]]) -> None:
    """Print every study on stderr; intervals are of 95 %, nats a token, angles at full distillation's student."""
    console = Console(stderr=True)
    for title, findings in tables.items():
        caption = f"{machine['cpu']}, {machine['threads']} threads; * the best of three rates is the lowest or highest"
        table = Table(title=f"bench quality: {title}", caption=caption)
        for heading in _HEADINGS:
            table.add_column(heading, justify="left" if heading == "arm" else "right", no_wrap=True)
        for finding in findings.values():
            table.add_row(*_cells(finding, findings))
        console.print(table)


def _cells(finding: Finding, findings: Mapping[str, Finding]) -> list[str]:
    found = compare(finding, findings)
    degrees = finding.gradients.get("full", (None, None))[0]
    return [
        finding.arm + (f" ({finding.candidate})" if finding.candidate else ""),
        f"{finding.learning_rate:g}" + ("*" if finding.at_an_edge else ""),
        f"{found.kl_nats.mean:.4f}",
        f"{found.ce_nats.mean:.4f}",
        _text(found.kl_gain_share, ".1%"),
        _text(found.perplexity_lost, ".2f", " %"),
        _text(found.ce_vs_default, "+.4f"),
        "" if degrees is None else f"{degrees:.1f}°",
        "" if finding.bytes_per_token is None else f"{finding.bytes_per_token:.0f}",
        str(len(finding.students)),
    ]


def _text(interval: Interval | None, form: str, unit: str = "") -> str:
    """A mean with the ends of its interval; nothing where there is none."""
    if interval is None:
        return ""
    mean = f"{interval.mean:{form}}{unit}"
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean} [{interval.low:{form}}, {interval.high:{form}}]"
