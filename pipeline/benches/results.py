"""One figure of a bench, and the goal it is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Result:
    """A figure; use `measured` to make one."""

    name: str
    """dotted: the bench, what was measured, and of what"""
    value: float
    unit: str
    """"" for a ratio"""
    goal: str | None
    """such as "<= 1.25"; None where there is none"""
    ok: bool | None
    """whether the goal is met; None where there is none"""


def measured(
    name: str,
    value: float,
    unit: str = "",
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
) -> Result:
    """A figure, held against the one goal that is given, or against none. A value that is no number misses it."""
    goals = {"<=": at_most, ">=": at_least, "<": below}
    given = [(sign, limit) for sign, limit in goals.items() if limit is not None]
    assert len(given) <= 1, f"{name}: one goal a figure"
    value = float(value)
    if not given:
        return Result(name, value, unit, None, None)
    [(sign, limit)] = given
    met = {"<=": value <= limit, ">=": value >= limit, "<": value < limit}[sign]
    return Result(name, value, unit, f"{sign} {limit:g}" if limit < 1e5 else f"{sign} {limit:,.0f}", met)


def to_json(machine: dict[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """What `--json` prints; ValueError where a name comes twice."""
    names = [result.name for result in results]
    if len(set(names)) < len(names):
        raise ValueError(f"bench: a figure comes twice: {sorted({name for name in names if names.count(name) > 1})}")
    return {"machine": machine, "results": [asdict(result) for result in results]}
