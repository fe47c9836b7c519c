"""What README.md tells people to type exists: commands, options, config keys, make targets."""

from __future__ import annotations

import re
import shlex

import click
import pytest
from click.testing import CliRunner

from pipeline.config import parse_config
from pipeline.plain_yaml import load_yaml
from stages.cli import main
from stages.config import RunConfig
from tests.source_tree import ROOT
from tests.typed_commands import README, blocks, commands, is_key, wrong_with

# ------------------------------------------------------------------ the page


def test_every_command_can_be_typed() -> None:
    assert len(list(commands(README))) > 5
    wrong = {shlex.join(words): wrong_with(words) for words in commands(README)}
    assert not {line: why for line, why in wrong.items() if why}


def test_every_command_named_in_passing_exists() -> None:
    named = set(re.findall(r"`sad-pipeline ([a-z-]+)", README))
    assert len(named) > 8
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
    assert list(blocks(README, "yaml"))
    for block in blocks(README, "yaml"):
        parse_config(RunConfig, load_yaml(block), where="README.md")


def test_every_config_key_named_exists() -> None:
    sections = "|".join(RunConfig.model_fields)
    named = set(re.findall(rf"`((?:{sections})\.[a-z_][a-z_.]*[a-z_])[`=: ]", README))
    assert len(named) > 5
    files = {key for key in named if key.rpartition(".")[2] in ("yaml", "json", "jsonl", "html", "py")}
    assert not {key for key in named - files if not is_key(key)}


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
    assert len(rows) == 16
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
