"""Every key that a config may hold, with its default, what it is for, and what changing it means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticUndefined

from pipeline.config import Kind, Section, sections_in

MEANING: dict[Kind, str] = {
    "identity": "shapes the cache: another value is another cache",
    "schedule": "shapes the training: another value is another training",
    "free": "may change at any time; where it names a model, a text or a commit, it must still be the same one",
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key, by its dotted name."""

    name: str
    required: bool
    """whether its section needs it; it then has no default"""
    default: Any
    """a JSON value; None where it is absent by default, or required"""
    kind: Kind
    doc: str


def keys_of(schema: type[Section], prefix: str = "") -> Iterator[Key]:
    """All keys of a section and of those inside it, in the order they are declared."""
    for name, field in schema.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "kind" in extra:
            default = field.get_default(call_default_factory=True)
            required = default is PydanticUndefined
            default = None if required else list(default) if isinstance(default, tuple) else default
            yield Key(prefix + name, required, default, extra["kind"], field.description or "")  # type: ignore[arg-type]
        else:
            for section in sections_in(field.annotation):
                yield from keys_of(section, f"{prefix}{name}.")
