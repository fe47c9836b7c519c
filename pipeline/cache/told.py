"""What a plan tells of its making, in nested JSON whose parts are asked for by name.

Any of them may be absent, or another thing than was written, where somebody else wrote the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pipeline.errors import DamagedDataError

PLAN_FIX = "Restore it from a copy, or start a new run directory"
_TEACHER_FILE = {"size_bytes": int, "samples_sha256": str, "sha256": str}
_KINDS: dict[str, Any] = {
    "identity": {
        "settings": {"data.source": str},
        "packing_version": int,
        "source": {"num_files": int, "num_bytes": int, "revision": str},
        "tokenizer": {},
        "teacher": {"files": {"*": _TEACHER_FILE}, "hub": {"model": str, "revision": str}},
    },
    "capture": {
        "batch_size": int,
        "chunk_positions": int,
        "seed": int,
        "dtype": str,
        "device_class": str,
        "packing": str,
    },
}


class Told(dict[str, Any]):
    """Such JSON, read from a plan. DamagedDataError for a part that is asked for and is not there."""

    def __init__(self, name: str, value: Mapping[str, Any]) -> None:
        super().__init__({key: _wrapped(f"{name}.{key}", part) for key, part in value.items()})
        self._name = name

    def __missing__(self, key: str) -> Any:
        raise DamagedDataError(
            f"plan.json: {self._name} has no part {key!r}, which is needed now; it has {sorted(self)}. {PLAN_FIX}"
        )

    @classmethod
    def read(cls, name: str, value: Any) -> Self:
        """What plan.json holds under a name; TypeError where a part of it is of another type than is ever written."""
        _require(name, value, _KINDS[name])
        return cls(name, value)


def _wrapped(name: str, value: Any) -> Any:
    return Told(name, value) if isinstance(value, dict) else value


def _require(name: str, value: Any, kind: Any) -> None:
    """TypeError unless the value is of that type, or is an object whose known parts are."""
    parts: dict[str, Any] = kind if isinstance(kind, dict) else {}
    wanted = dict if isinstance(kind, dict) else kind
    if type(value) is not wanted:
        raise TypeError(f"{name} must be of type {wanted.__name__}, found {type(value).__name__}")
    for key in parts and value:
        if (known := parts.get(key, parts.get("*"))) is not None:
            _require(f"{name}.{key}", value[key], known)
