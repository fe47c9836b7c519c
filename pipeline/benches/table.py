"""Figures of a bench as a table, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.benches.results import Result


def print_table(title: str, machine: dict[str, Any], results: Sequence[Result]) -> None:
    """Print figures and goals on stderr, with the machine they are of."""
    table = Table(title=title, caption=f"{machine['cpu']}, {machine['threads']} threads; {machine['gpu'] or 'no GPU'}")
    table.add_column("figure", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit")
    table.add_column("goal")
    for result in results:
        met = "" if result.ok is None else "  met" if result.ok else "  missed"
        table.add_row(result.name, format_value(result.value), result.unit, f"{result.goal or ''}{met}")
    Console(stderr=True).print(table)


def format_value(value: float) -> str:
    """Four digits, or all of a large whole number."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
