"""JSON as it is written here, and nothing that only some readers understand alike."""

from __future__ import annotations

import json
import math
from typing import Any


def load_json(data: bytes) -> Any:
    """The value of a JSON text; ValueError for duplicate keys, NaN, infinities and numbers beyond floats.

    RecursionError where it is nested too deeply.
    """
    return json.loads(
        data.decode(), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite_float
    )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key appears twice")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond the range of a number")
    return value
