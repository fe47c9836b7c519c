"""What README.md tells people to type exists: commands, options, config keys, make targets, Python names."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner

from pipeline.config import Section, parse_config
from pipeline.plain_yaml import load_yaml
from stages.cli import main
from stages.config import RunConfig, bundled_configs
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


# ------------------------------------------------------------------ the page


def test_every_command_can_be_typed() -> None:
    wrong = {shlex.join(words): wrong_with(words) for words in commands(README)}
    assert not {line: why for line, why in wrong.items() if why}


def test_every_command_named_in_passing_exists() -> None:
    named = set(re.findall(r"`sad-pipeline ([a-z-]+)", README))
    assert named <= set(main.commands)
    targets = set(re.findall(r"`(make [\w.-]+)`", README))
    assert not [target for target in targets if wrong_with(target.split())]


@pytest.mark.parametrize("name", sorted({words[1] for words in commands(README) if words[0] != "make" and words[1:]}))
def test_every_command_named_helps(name: str) -> None:
    arguments = [name] if name.startswith("-") else [name, "--help"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.strip()


def test_every_config_shown_loads() -> None:
    for block in blocks(README, "yaml"):
        parse_config(RunConfig, load_yaml(block), where="README.md")


def test_every_config_key_named_exists() -> None:
    sections = "|".join(RunConfig.model_fields)
    named = set(re.findall(rf"`((?:{sections})\.[a-z_][a-z_.]*[a-z_])[`=: ]", README))
    files = {key for key in named if key.rpartition(".")[2] in ("yaml", "json", "jsonl", "html", "py")}
    assert not {key for key in named - files if not is_key(key)}


def test_every_python_name_shown_exists() -> None:
    for block in blocks(README, "python"):
        ast.parse(block)
        for module, names in re.findall(r"^from ((?:pipeline|stages)[\w.]*) import ([\w, ]+)", block, re.MULTILINE):
            assert all(hasattr(importlib.import_module(module), name.strip()) for name in names.split(","))


def test_every_file_linked_exists() -> None:
    linked = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", README) if "://" not in link]
    # Pictures and evidence in artifacts/ are tracked; whatever else is made there is not.
    assert not [link for link in linked if link and not (ROOT / link).exists()]


# ------------------------------------------------------------------ the checks bite


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("sad-pipeline cache-teecher -c my.yaml", "no command"),
        ("sad-pipeline bench heads", "no command bench heads"),
        ("sad-pipeline bench codec --set data.path_=x", "no config key"),
        ("sad-pipeline --verbose", "no option"),
        ("sad-pipeline cache-teacher", "needs reference"),
        ("sad-pipeline cache-teacher -c my.yaml --tim-budget 2", "No such option"),
        ("sad-pipeline cache-teacher -c my.yaml extra", "nothing takes extra"),
        ("sad-pipeline cache-teacher -c nothing-bundled", "no bundled config"),
        ("sad-pipeline train-student -c my.yaml --set train.step=5", "no config key"),
        ("sad-pipeline train-student -c my.yaml --set train.steps.x=5", "no config key"),
        ("sad-pipeline verify", "needs run_dir"),
        ("make demos", "no make target"),
    ],
)
def test_a_wrong_line_is_noticed(line: str, why: str) -> None:
    [words] = commands(f"```bash\n{line}  # as it says\n```\n")
    assert why in (wrong_with(words) or "")


@pytest.mark.parametrize(
    "line",
    [
        "make demo",
        "make .venv PYTHON=python3.12",
        "$ sad-pipeline demo",
        "sad-pipeline train-student -h",
        "sad-pipeline train-student -c my.yaml \\\n  --set train.steps=5 --set student.config.hidden_size=8",
        "sad-pipeline cache-teacher -c my.yaml --set demo.teacher_steps=5 --set train.temperature.start=2",
        "sad-pipeline report artifacts/demo --compare plain=artifacts/plain",
        "sad-pipeline --version",
    ],
)
def test_a_right_line_passes(line: str) -> None:
    [words] = commands(f"```\n{line}\n```\n")
    assert wrong_with(words) is None


def test_examples_in_the_commands_own_help_can_be_typed() -> None:
    [bench] = [command for command in main.commands.values() if isinstance(command, click.Group)]
    for name, command in (main.commands | bench.commands).items():
        examples = re.findall(r"Example: (sad-pipeline .*)", command.help or "")
        assert examples, f"{name} --help shows no example"
        assert [wrong_with(shlex.split(line)) for line in examples] == [None] * len(examples)


def test_the_table_of_the_original_names_files_that_are_there() -> None:
    """Cells of a row may leave out the folder that the one before it named."""
    section = README.partition("## What became of")[2].partition("\n## ")[0]
    rows = [row.split("|")[2:4] for row in section.splitlines() if row.startswith("| ")][2:]
    assert len(rows) == 15
    missing = []
    for home, cell in ((home, cell) for row in rows for home, cell in zip(("", "tests/"), row, strict=True)):
        folder = ""
        for name in re.findall(r"`([^`]+)`", cell):
            folder = name.rpartition("/")[0] if "/" in name else folder
            places = [
                ROOT / home / place
                for place in (name, f"pipeline/{name}", f"{folder}/{name}", f"pipeline/{folder}/{name}")
            ]
            if not name.endswith("jsonl") and not any(place.exists() for place in places):
                missing.append(name)
    assert not missing
