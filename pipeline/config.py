"""Typed configuration: defaults < file < command line, every unknown key refused with the nearest right one.

Each room of the library keeps a `settings.py` with its own Section; `stages/config.py` composes them. A key is one of
three kinds, and the kind decides what happens when it changes between two starts of the same run:

- identity: shapes the bytes of the cache; a difference is refused and shown,
- schedule: shapes the training; refused once that training has begun, unless it is forked into a new run,
- free: paths, logging, budgets, workers; may change at any time. What a path or an id leads to is compared by content.
"""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import pydantic
import yaml

from pipeline.config_words import holds_boolean, suggestion, wrong_value
from pipeline.errors import ConfigError
from pipeline.plain_yaml import dump_yaml, load_yaml

Kind = Literal["identity", "schedule", "free"]
SectionT = TypeVar("SectionT", bound="Section")
Place = Annotated[str, pydantic.AfterValidator(os.path.expanduser)]
"""A folder, a file or the id of something on the hub; a leading ~ is the home folder, as in a shell."""
_MAX_CONFIG_BYTES = 2**20


class Section(pydantic.BaseModel):
    """A frozen group of settings; unknown keys are errors, a group without keys is all defaults."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )
    stood_for_by_a_number: ClassVar[tuple[str, ...]] = ()
    """keys that a plain number in place of the group gives a value to; none: there must be a group"""

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _mean_what_is_written(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        annotation = cls.model_fields[info.field_name or ""].annotation
        if sections := sections_in(annotation):
            value = _written_out({} if value is None and isinstance(annotation, type) else value, sections[0])
            if not isinstance(value, (dict, Section, types.NoneType)):
                number = "a number or " if sections[0].stood_for_by_a_number else ""
                raise ValueError(f"expected {number}a group of keys")
        elif holds_boolean(value) and not _allows_boolean(annotation):
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
    changed: dict[str, str] = {}
    for override in overrides:
        key = _apply_override(schema, values, override)
        changed.pop(key, None)  # the last one is what counts
        changed[key] = f"--set {override}"
    return parse_config(schema, values, str(path), changed)


def parse_config(
    schema: type[SectionT], values: dict[str, Any], where: str, changed: Mapping[str, str] | None = None
) -> SectionT:
    """Check `values` against `schema`; a ConfigError names every wrong key, what was expected and what was found.

    `where` names where the values come from; `changed` maps a dotted key to the override that set it.
    """
    try:
        return schema.model_validate(values)
    except pydantic.ValidationError as error:
        lines = [f"{_origin(problem, where, changed or {})}: {_explain(schema, problem)}" for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def dump_config(config: Section) -> bytes:
    """The resolved configuration as YAML."""
    return dump_yaml(config.model_dump(mode="json")).encode()


def changed(config: SectionT, **sections: dict[str, Any]) -> SectionT:
    """The config with some keys of some of its sections changed; nothing is validated again."""
    update = {name: getattr(config, name).model_copy(update=changes) for name, changes in sections.items()}
    return config.model_copy(update=update)


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


def _apply_override(schema: type[Section], values: dict[str, Any], override: str) -> str:
    """Write it into the values; the dotted key from which on they are its own."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override}: expected key.sub=value, for example --set train.steps=500")
    *parents, last = names = key.strip().split(".")
    own = len(names)
    for depth, name in enumerate(parents, start=1):
        if values.get(name) is None:
            values[name], own = {}, min(own, depth)
        section = _section_at(schema, names[:depth])
        child = values[name] = values[name] if section is None else _written_out(values[name], section)
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {name!r} holds a single value, not a group of keys")
        values = child
    try:
        values[last] = load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: {text!r} is not a YAML value. {error}") from error
    return ".".join(names[:own])


def _written_out(value: Any, section: type[Section]) -> Any:
    """The group that a plain number stands for; any other value as it is."""
    if section.stood_for_by_a_number and isinstance(value, (int, float)) and not isinstance(value, bool):
        return dict.fromkeys(section.stood_for_by_a_number, value)
    return value


def _origin(problem: Any, where: str, changed: Mapping[str, str]) -> str:
    """Where a wrong value comes from; keys that do not go together may come from several places."""
    location = "".join(f"{part}." for part in problem["loc"])
    own = [by for key, by in changed.items() if location.startswith(f"{key}.")]
    if problem["type"] != "value_error" or not isinstance(problem["input"], dict):
        return own[-1] if own else where
    below = own[-1:] + [by for key, by in changed.items() if f"{key}.".startswith(location) and by not in own]
    return f"{where} with {' '.join(below)}" if below else where


def _explain(schema: type[Section], problem: Any) -> str:
    names = [str(part) for part in problem["loc"]]
    key = ".".join(names)
    if problem["type"] == "missing":
        return f"{key!r} is missing: `sad-pipeline keys {names[0]}` lists what it may say"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {suggestion(key, list(dotted_keys(schema)))}"
    section = _section_at(schema, names[:-1])
    field = section.model_fields.get(names[-1]) if section is not None and names else None
    return wrong_value(key, problem, takes_text=field is not None and _takes_text(field.annotation))


def _section_at(schema: type[Section], names: list[str]) -> type[Section] | None:
    """The group of keys of a dotted name; None where there is none."""
    section: type[Section] | None = schema
    for name in names:
        field = None if section is None else section.model_fields.get(name)
        section = next(iter([] if field is None else sections_in(field.annotation)), None)
    return section


def dotted_keys(schema: type[Section], prefix: str = "") -> Iterator[str]:
    """Every group and key of a section, and of those inside it."""
    for name, field in schema.model_fields.items():
        yield prefix + name
        for section in sections_in(field.annotation):
            yield from dotted_keys(section, f"{prefix}{name}.")


def sections_in(annotation: Any) -> list[type[Section]]:
    """The sections that a field's type allows."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [section for part in typing.get_args(annotation) for section in sections_in(part)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, Section) else []


def _allows_boolean(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(map(_allows_boolean, typing.get_args(annotation)))


def _takes_text(annotation: Any) -> bool:
    """Whether any text may be given, by itself or within a list."""
    parts = () if typing.get_origin(annotation) is dict else typing.get_args(annotation)
    return annotation is str or any(map(_takes_text, parts))
