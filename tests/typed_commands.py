"""Commands that pages tell people to type, and why one cannot work."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import click

from pipeline.config import Section
from pipeline.errors import ConfigError
from pipeline.plain_yaml import load_yaml
from stages.cli import main
from stages.config import RunConfig, bundled_configs, load_run_config
from tests.source_tree import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(text: str, *languages: str) -> list[str]:
    """Fenced code blocks in one of the languages."""
    return [body for language, body in _FENCE.findall(text) if language in languages]


def commands(text: str) -> Iterator[list[str]]:
    """Every `sad-pipeline` or `make` command of the fenced blocks, split as a shell would."""
    for block in blocks(text, "", "bash", "sh", "shell", "console", "text"):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.strip().removeprefix("$ ").strip()
            if re.match(r"(sad-pipeline|make)\b", words):
                yield shlex.split(words, comments=True)


def wrong_with(words: list[str]) -> str | None:
    """Why a command line cannot work, or None."""
    program, *arguments = words
    return _wrong_with_make(arguments) if program == "make" else _wrong_with_ours(arguments)


def _wrong_with_make(arguments: list[str]) -> str | None:
    targets = re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    unknown = [word for word in arguments if "=" not in word and word not in targets]
    return f"no make target {unknown[0]}" if unknown else None


def _wrong_with_ours(arguments: list[str]) -> str | None:
    if not arguments or arguments[0].startswith("-"):
        return None if arguments in ([], ["--help"], ["-h"], ["--version"]) else f"no option {arguments[0]}"
    command = main.commands.get(arguments[0])
    if command is None:
        return f"no command {arguments[0]}"
    if isinstance(command, click.Group):
        if arguments[1:] and arguments[1] not in command.commands:
            return f"no command {arguments[0]} {arguments[1]}"
        if arguments[1:]:
            command, arguments = command.commands[arguments[1]], arguments[1:]
    if {"-h", "--help"} & set(arguments):
        return None
    with click.Context(command, info_name=arguments[0]) as context:
        try:
            options, rest, _ = command.make_parser(context).parse_args(arguments[1:])
        except click.UsageError as error:
            return error.format_message()
    if rest:
        return f"nothing takes {rest[0]}"
    # What was not given is absent, None or a sentinel, depending on click's version.
    missing = [
        p.name for p in command.params if p.required and not isinstance(options.get(p.name or ""), (str, list, tuple))
    ]
    if missing:
        return f"needs {missing[0]}"
    return _wrong_with_config(options)


def _wrong_with_config(options: dict[str, Any]) -> str | None:
    reference = options.get("reference")
    if isinstance(reference, str) and not reference.endswith(".yaml") and reference not in bundled_configs():
        return f"no bundled config {reference}"
    overrides = options.get("overrides")
    for override in overrides if isinstance(overrides, list) else []:
        key, equals, value = override.partition("=")
        if not equals or not is_key(key):
            return f"no config key {key}"
        load_yaml(value)
    if reference in bundled_configs():
        try:
            load_run_config(str(reference), tuple(overrides or ()))
        except ConfigError as error:
            return str(error)
    return None


def is_key(key: str) -> bool:
    """Is this dotted name a group or a key of the configuration, or something inside a free-form block?"""
    schema: Any = RunConfig
    for name in key.split("."):
        if not (isinstance(schema, type) and issubclass(schema, Section)):
            return "dict" in str(schema)
        if name not in schema.model_fields:
            return False
        annotation = schema.model_fields[name].annotation
        parts = getattr(annotation, "__args__", ()) if "dict" not in str(annotation) else ()
        schema = next((part for part in parts if isinstance(part, type) and issubclass(part, Section)), annotation)
    return True
