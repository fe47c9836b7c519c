"""Typed configuration: defaults < file < command line, every unknown key refused with the nearest right one.

Each room of the library keeps a `settings.py` with its own Section; `stages/config.py` composes them. A key is one of
three kinds, and the kind decides what happens when it changes between two starts of the same run:

- identity: shapes the bytes of the cache; a difference is refused and shown,
- schedule: shapes the training; refused once that training has begun, unless it is forked into a new run,
- free: paths, logging, budgets, workers; may change at any time.
"""

from __future__ import annotations

import difflib
import os
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
import yaml

from pipeline.errors import ConfigError
from pipeline.plain_yaml import dump_yaml, load_yaml

Kind = Literal["identity", "schedule", "free"]
SectionT = TypeVar("SectionT", bound="Section")
Place = Annotated[str, pydantic.AfterValidator(os.path.expanduser)]
"""A folder, a file or the id of something on the hub; a leading ~ is the home folder, as in a shell."""
_MAX_CONFIG_BYTES = 2**20
_YAML_WORDS = " (yes, no, on and off are booleans in YAML; put quotes around them where text is meant)"
_QUOTES = " (put quotes around it where text is meant)"


class Section(pydantic.BaseModel):
    """A frozen group of settings; unknown keys are errors, a group without keys is all defaults."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _mean_what_is_written(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        annotation = cls.model_fields[info.field_name or ""].annotation
        if sections_in(annotation):
            value = {} if value is None and isinstance(annotation, type) else value
            if not isinstance(value, (dict, Section, types.NoneType)):
                raise ValueError("expected a group of keys")
        elif _holds_boolean(value) and not _allows_boolean(annotation):
            raise ValueError("this key does not take a boolean")
        return value


def identity(default: Any = ..., doc: str = "", **bounds: Any) -> Any:
    """A key that shapes the bytes of the cache."""
    return _field("identity", default, doc, bounds)


def schedule(default: Any = ..., doc: str = "", **bounds: Any) -> Any:
    """A key that shapes a training."""
    return _field("schedule", default, doc, bounds)


def free(default: Any = ..., doc: str = "", **bounds: Any) -> Any:
    """A key that changes nothing that lasts."""
    return _field("free", default, doc, bounds)


def _field(kind: Kind, default: Any, doc: str, bounds: dict[str, Any]) -> Any:
    if isinstance(default, (list, dict)):
        value = default
        return pydantic.Field(
            default_factory=lambda: value.copy(), description=doc, json_schema_extra={"kind": kind}, **bounds
        )
    return pydantic.Field(default, description=doc, json_schema_extra={"kind": kind}, **bounds)


def load_config(schema: type[SectionT], path: Path, overrides: tuple[str, ...] = ()) -> SectionT:
    """Read a YAML file, apply `key.sub=value` overrides, and check the result against `schema`."""
    try:
        if (size_bytes := path.stat().st_size) > _MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: {size_bytes:,} bytes are no config; at most {_MAX_CONFIG_BYTES:,} are read")
        values = load_yaml(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML. {error}") from error
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as a config. {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(values).__name__}")
    for override in overrides:
        _apply_override(values, override)
    return parse_config(schema, values, where=str(path))


def parse_config(schema: type[SectionT], values: dict[str, Any], where: str) -> SectionT:
    """Check `values` against `schema`; a ConfigError names every wrong key, what was expected and what was found."""
    try:
        return schema.model_validate(values)
    except pydantic.ValidationError as error:
        lines = [_explain(schema, problem) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "\n".join(lines)) from error


def dump_config(config: Section) -> bytes:
    """The resolved configuration as YAML."""
    return dump_yaml(config.model_dump(mode="json")).encode()


def keys_of_kind(config: Section, kind: Kind, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> JSON value, for every key of one kind."""
    found: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "kind" in extra:
            if extra["kind"] == kind:
                found[prefix + name] = config.model_dump(mode="json", include={name})[name]
        elif isinstance(value, Section):
            found |= keys_of_kind(value, kind, f"{prefix}{name}.")
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Lines `key: before -> now`, for every dotted key of two nested values that differs."""
    before, after = _flatten(before), _flatten(after)
    keys = sorted(before.keys() | after.keys())
    return [
        f"  {key}: {before.get(key, '(absent)')!r} -> {after.get(key, '(absent)')!r}"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def _flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value; an empty group is a value too."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flatten(item, f"{prefix}{key}.") if isinstance(item, dict) and item else {prefix + key: item}
    return flat


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override}: expected key.sub=value, for example --set train.steps=500")
    *parents, last = key.strip().split(".")
    for name in parents:
        child = values[name] = {} if values.get(name) is None else values[name]
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {name!r} holds a single value, not a group of keys")
        values = child
    try:
        values[last] = load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: {text!r} is not a YAML value. {error}") from error


def _explain(schema: type[Section], problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    key, found = ".".join(location), problem["input"]
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {_suggestion(schema, key)}"
    if problem["type"] == "missing":
        return f"{key!r} is missing"
    hint = _YAML_WORDS if _holds_boolean(found) else _QUOTES if problem["type"] == "string_type" else ""
    message = problem["msg"].removeprefix("Value error, ")
    said = f"{key!r}: {message[0].lower()}{message[1:]}"
    if isinstance(found, dict) and problem["type"] == "value_error":  # keys that do not go together: it names them
        return said
    return f"{said}, found {found!r}{hint}"


def _suggestion(schema: type[Section], key: str) -> str:
    """The nearest right key: of that name elsewhere, beside it, anywhere if nothing is; or else those there are."""
    known = list(_dotted_keys(schema))
    parent, _, name = key.rpartition(".")
    siblings = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == parent}
    near = (
        [other for other in known if other.rpartition(".")[2] == name]
        or [siblings[other] for other in difflib.get_close_matches(name, siblings, 1, 0.5)]
        or ([] if siblings else difflib.get_close_matches(key, known, 1, 0.7))
    )
    return f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(siblings.values() or known)}"


def _dotted_keys(schema: type[Section], prefix: str = "") -> Iterator[str]:
    for name, field in schema.model_fields.items():
        yield prefix + name
        for section in sections_in(field.annotation):
            yield from _dotted_keys(section, f"{prefix}{name}.")


def sections_in(annotation: Any) -> list[type[Section]]:
    """The sections that a field's type allows."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [section for part in typing.get_args(annotation) for section in sections_in(part)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, Section) else []


def _holds_boolean(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, (list, tuple)) and any(map(_holds_boolean, value)))


def _allows_boolean(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(map(_allows_boolean, typing.get_args(annotation)))
