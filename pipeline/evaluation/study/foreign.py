"""Values of a JSON file that others may have written or damaged, each of its exact type; ValueError says which."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

_MOST = 1e9
"""no figure of a study lies beyond, and squares and sums of wilder ones could overflow"""


def object_of(value: Any, where: str) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, found {_short(value)}")
    return value


def list_of(value: Any, where: str) -> list[Any]:
    """A JSON array with something in it."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where}: expected a list that is not empty, found {_short(value)}")
    return value


def fields_of(value: Any, where: str, record: type) -> dict[str, Any]:
    """An object with the fields of a dataclass, and no others."""
    found, expected = object_of(value, where), {field.name for field in fields(record)}
    if missing := sorted(expected - found.keys()):
        raise ValueError(f"{where}: {', '.join(missing)} is missing")
    if unknown := sorted(found.keys() - expected):
        raise ValueError(f"{where}: {', '.join(unknown)} is not a field of this version")
    return found


def number_of(value: Any, where: str, above: float = -_MOST) -> float:
    """A finite number."""
    if type(value) not in (int, float) or not above < value < _MOST:
        raise ValueError(f"{where}: expected a number{'' if above < 0 else ' above 0'}, found {_short(value)}")
    return float(value)


def count_of(value: Any, where: str) -> int:
    """A whole number, zero or more."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{where}: expected a count, found {_short(value)}")
    return value


def text_of(value: Any, where: str, empty: bool = False) -> str:
    """Some text."""
    if not isinstance(value, str) or not (value or empty):
        raise ValueError(f"{where}: expected text, found {_short(value)}")
    return value


def truth_of(value: Any, where: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{where}: expected true or false, found {_short(value)}")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
