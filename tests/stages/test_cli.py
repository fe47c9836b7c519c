"""The command line itself: help, examples, exit codes, and which stream says what."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from stages import config as config_module
from stages.cli import main
from stages.config import bundled_configs
from tests.stages.refusals import refuse
from tests.stages.toys import REPOSITORY, Toy, copy, flip_a_bit, run, run_process, status


def _leaves(group: click.Group, before: str = "") -> dict[str, click.Command]:
    """Every command, those of groups too, by all its words: {"bench head": ...}."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        found[f"{before}{name}"] = command
        if isinstance(command, click.Group):
            found |= _leaves(command, f"{before}{name} ")
    return found


COMMANDS = _leaves(main)
HEAVY = ("torch", "transformers", "zarr", "datasets", "pyarrow", "matplotlib", "numpy")


def test_help_of_every_command_loads_nothing_heavy() -> None:
    """One interpreter asks for the help of all; what it has loaded at the end is what --help costs."""
    program = f"""
import sys
from click.testing import CliRunner
from stages.cli import main
from stages.config import bundled_configs
for command in {sorted(COMMANDS)!r}:
    for flag in ("-h", "--help"):
        result = CliRunner().invoke(main, [*command.split(), flag])
        assert result.exit_code == 0, result.output
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_one_line_and_an_example(name: str) -> None:
    command = COMMANDS[name]
    assert command.help is not None
    first, _, rest = command.help.partition("\n")
    assert first.endswith(".")
    assert f"Example: sad-pipeline {name}" in rest
    example = next(line for line in rest.splitlines() if "Example:" in line).partition(f"sad-pipeline {name}")[2]
    known = {option for parameter in command.params for option in parameter.opts}
    for word in example.split():
        assert not word.startswith("-") or word in known, f"{name} has no option {word}"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts} says nothing"


def test_commands_are_listed_in_the_order_of_use() -> None:
    listed = run("--help").stdout
    order = [listed.index(f"\n  {name}") for name in ("demo", "cache-teacher", "train-student", "eval", "report")]
    assert order == sorted(order)


def test_a_config_may_be_any_that_is_bundled() -> None:
    listed = "".join(run("train-student", "--help").stdout.split())
    assert f"onethatisbundled:{','.join(bundled_configs())}." in listed


def test_summaries_of_commands_are_whole() -> None:
    for arguments in (["--help"], ["bench", "--help"]):
        assert "..." not in run(*arguments).stdout.partition("\nCommands:\n")[2]


def test_usage_errors_exit_with_2(toy: Toy, tmp_path: Path) -> None:
    for arguments in (
        ("no-such-command",),
        ("cache-teacher",),
        ("cache-teacher", "-c", str(toy.config), "--no-such-option"),
        ("cache-teacher", "-c", str(toy.config), "--time-budget", "0"),
        ("cache-teacher", "-c", str(toy.config), "--time-budget", "soon"),
        ("verify", str(tmp_path / "nowhere")),
        ("report", str(tmp_path / "nowhere")),
        ("train-student", "-c", str(toy.config), "--fork-from", str(toy.config)),
    ):
        ended = run(*arguments)
        assert ended.code == 2, arguments
        assert ended.stdout == ""
        assert ended.stderr


@pytest.mark.parametrize("stage", ["cache-teacher", "train-student"])
@pytest.mark.parametrize("sign", ["LOCAL_RANK", "TORCHELASTIC_RUN_ID"])
def test_one_of_a_launchers_processes_is_refused(
    stage: str, sign: str, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them would be at work in one run directory."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(sign, "0")
    refuse(
        toy.run(stage, tmp_path / "run"), 2, "WORLD_SIZE: expected one process, found one of 2", "torchrun",
        "Run the command once", "--workers",
    )  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("found", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "1", "LOCAL_RANK": "0"}, {"LOCAL_RANK": "1"}])
def test_a_process_that_is_alone_is_not_taken_for_a_launchers(
    found: dict[str, str], toy: Toy, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    toy.ran("cache-teacher", copy(cached, tmp_path / "run"))


def test_an_interrupt_before_a_stage_listens_ends_it_without_a_word(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(config_module, "load_run_config", interrupt)
    ended = toy.run("cache-teacher", tmp_path / "run")
    assert (ended.code, ended.stdout, ended.stderr) == (130, "", "")
    assert not (tmp_path / "run").exists()


WHILE_IT_LOADS = """
import signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.meta_path.insert(0, Interrupt())
from stages.__main__ import main
main()
"""


@pytest.mark.parametrize("name", ["click", "pipeline.config", "stages.cli_bench"])
def test_an_interrupt_while_the_command_is_loaded_ends_it_without_a_word(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WHILE_IT_LOADS.format(name=name), "--help"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


AT_THE_END = """
import atexit, os, signal, sys

@atexit.register  # first of all, and so what runs last
def signalled():
    for number in {numbers}:
        os.kill(os.getpid(), number)
    print("still here")

from stages.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("numbers", "code", "out"), [("[2]", 75, "still here\n"), ("[15]", 75, "still here\n"), ("[15, 2]", -2, "")]
)
def test_a_signal_that_comes_when_the_pause_is_written_changes_nothing(
    numbers: str, code: int, out: str, toy: Toy, tmp_path: Path
) -> None:
    """And another one leaves at once, as ever."""
    over = ["--time-budget", "1", "--session-start", str(time.time() - 7200), "--paused-exit-code", "75"]
    arguments = toy.command("cache-teacher", tmp_path / "run", *over)
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_END.format(numbers=numbers), *arguments],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (code, out), done.stderr
    assert status(tmp_path / "run")["state"] == "paused"


def test_json_stands_alone_on_stdout(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    assert json.loads(run("verify", str(cached), "--json").stdout) == []
    assert json.loads(run("inspect", str(cached), "--json").stdout)
    damaged = copy(cached, tmp_path / "damaged")
    flip_a_bit(damaged / "cache" / "shards" / "00001.shard")
    ended = run("verify", str(damaged), "--json")
    assert ended.code == 4
    assert {Path(problem["path"]).name for problem in json.loads(ended.stdout)} == {"00001.shard"}
    ended = toy.ran("eval", copy(trained, tmp_path / "run"), "--set", f"cache.roots=[{cached}]", "--json")
    assert json.loads(ended.stdout) == json.loads((tmp_path / "run" / "eval" / "eval.json").read_text())
    assert "cross-entropy" in ended.stderr


def test_without_json_stdout_is_empty(toy: Toy, cached: Path, trained: Path) -> None:
    for ended in (
        toy.ran("cache-teacher", cached),
        toy.ran("train-student", trained, "--set", f"cache.roots=[{cached}]"),
        run("verify", str(cached)),
        run("inspect", str(cached)),
        run("report", str(trained)),
    ):
        assert (ended.code, ended.stdout) == (0, "")
        assert ended.stderr


def test_an_unexpected_error_exits_with_1_and_keeps_its_trace(toy: Toy, tmp_path: Path) -> None:
    """In a real process: a mistake of ours must be seen whole."""
    program = """
import sys
import stages.cache_teacher
stages.cache_teacher.earlier_plan = lambda *_: 1 / 0
from stages.cli import main
from stages.config import bundled_configs
main(sys.argv[1:])
"""
    arguments = toy.command("cache-teacher", tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" in done.stderr
    assert done.stdout == ""


def test_the_installed_command_is_this_one() -> None:
    done = run_process("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("sad-pipeline, version ")
