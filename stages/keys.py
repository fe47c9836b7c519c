"""keys: what a config may say, with defaults and meanings."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from typing import Any

from pipeline.config import dotted_keys
from pipeline.config_keys import MEANING, Key, keys_of
from pipeline.config_words import suggestion
from pipeline.errors import ConfigError
from stages.config import RunConfig

_WIDTH = 110


def run(wanted: str | None = None, config: RunConfig | None = None) -> list[Key]:
    """The keys of a section, or those with `wanted` in their name; with the values of a config in place of defaults.

    ConfigError where there is none.
    """
    keys = list(keys_of(RunConfig))
    if wanted is not None:
        section = [key for key in keys if key.name == wanted or key.name.startswith(f"{wanted}.")]
        chosen = section or [key for key in keys if wanted in key.name]
        if not chosen:
            known = suggestion(wanted, list(dotted_keys(RunConfig)))
            raise ConfigError(f"keys {wanted}: expected a section, a key or a part of one, and no key has it; {known}")
        keys = chosen
    if config is None:
        return keys
    values = config.model_dump(mode="json")
    return [dataclasses.replace(key, default=_value(values, key.name), required=False) for key in keys]


def text_of(keys: list[Key]) -> str:
    """A key in two lines, and in the end what its kind means."""
    lines = []
    for key in keys:
        value = "(required)" if key.required else "(absent)" if key.default is None else json.dumps(key.default)
        lines.append(f"{key.name}: {value}  [{key.kind}]")
        lines += textwrap.wrap(key.doc, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    lines += ["", *(f"[{kind}] {meaning}" for kind, meaning in MEANING.items() if kind in {key.kind for key in keys})]
    return "\n".join(lines)


def _value(values: dict[str, Any], name: str) -> Any:
    for part in name.split("."):
        if not isinstance(values, dict) or part not in values:
            return None
        values = values[part]
    return values
