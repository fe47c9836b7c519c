"""The command line. Nothing heavy is imported until a command runs, so that --help is instant."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import __version__
from pipeline.console import say
from pipeline.errors import ConfigError, DamagedDataError, SadError
from pipeline.pause import PauseRequest
from pipeline.runs import Outcome, RunDirectory, Session

if TYPE_CHECKING:
    from stages.config import RunConfig

_POSITIVE = click.FloatRange(min=0, min_open=True)
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class _Group(click.Group):
    """Turns this project's errors into a message on stderr and their exit code."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; unexpected errors keep their traceback and exit with 1."""
        try:
            return super().invoke(context)
        except SadError as error:
            say(f"error: {error}")
            context.exit(error.exit_code)

    def list_commands(self, context: click.Context) -> list[str]:
        """In the order they are used, not of the alphabet."""
        return list(self.commands)


@click.group(cls=_Group, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="sad-pipeline")
def main() -> None:
    """Run a teacher once, keep what a student needs of it, and train the student from disk.

    \b
    sad-pipeline demo                      the whole pipeline on text every machine has, offline, on CPU
    sad-pipeline cache-teacher -c my.yaml  then train-student, eval and report with the same config
    """
    # Tokenizers warn when a process that used them forks; nothing here forks after using them in parallel.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its advice is to its own callers; errors are raised


# ------------------------------------------------------------------ options shared by commands


def _config_options(command: Callable[..., Any], default: str | None = None) -> Callable[..., Any]:
    """-c, --set and --run-dir, resolved to a config and a run directory."""

    # click takes an explicit default, even None, for a value that is there: then nothing would be missing.
    origin: dict[str, Any] = {"required": True} if default is None else {"default": default, "show_default": True}

    @click.option(
        "-c", "--config", "reference", metavar="CONFIG", help="A file, or the name of a bundled config.", **origin
    )
    @click.option("--set", "overrides", multiple=True, metavar="KEY.SUB=VALUE", help="Change one key; repeatable.")
    @click.option("--run-dir", type=click.Path(path_type=Path), help="Default: artifacts/<config name>.")
    @functools.wraps(command)
    def wrapped(reference: str, overrides: tuple[str, ...], run_dir: Path | None, **others: Any) -> Any:
        from stages.config import load_run_config

        config = load_run_config(reference, overrides)
        return command(config=config, run=RunDirectory(run_dir or Path("artifacts") / config.name), **others)

    return wrapped


def _pause_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--time-budget and --paused-exit-code; the command is given a Session and returns an Outcome."""

    @click.option("--time-budget", type=_POSITIVE, metavar="HOURS", help="Pause before.")
    @click.option("--paused-exit-code", type=int, default=0, metavar="N", help="Exit code of a clean pause.  [0]")
    @functools.wraps(command)
    def wrapped(run: RunDirectory, time_budget: float | None, paused_exit_code: int, **others: Any) -> None:
        seconds = None if time_budget is None else time_budget * 3600
        with PauseRequest(seconds) as pause:
            session = Session(run, pause, command=["sad-pipeline", *sys.argv[1:]])
            outcome: Outcome = command(session=session, **others)
        if outcome.state == "paused" and paused_exit_code:
            click.get_current_context().exit(paused_exit_code)

    return wrapped


_run_dir_argument = click.argument("run_dir", type=click.Path(path_type=Path, exists=True, file_okay=False))
_root_option = click.option(
    "--root", "roots", multiple=True, type=click.Path(path_type=Path), help="A further folder with parts of the cache."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="The result as JSON, alone on stdout.")


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, allow_nan=False))


# ------------------------------------------------------------------ the stages


@main.command()
@functools.partial(_config_options, default="demo")
@_pause_options
def demo(config: RunConfig, session: Session) -> Outcome:
    """Run all of it on text every machine has: offline, on CPU.

    \b
    Example: sad-pipeline demo
    """
    from stages.demo import run as stage

    return stage(config, session)


@main.command()
@_config_options
@click.option("--gb", "gigabytes", type=_POSITIVE, default=19, show_default=True, help="Room for the cache.")
@click.option("--hours", type=_POSITIVE, default=11, show_default=True, help="Length of a session.")
@_json_option
def estimate(config: RunConfig, run: RunDirectory, gigabytes: float, hours: float, as_json: bool) -> None:
    """What a config will cost, measured on this machine.

    Tokens, bytes, hours, sessions and memory, before it runs. Nothing is written; of a run that has begun, what is left
    is priced.

    \b
    Example: sad-pipeline estimate -c my.yaml --gb 19 --hours 11
    """
    from stages.estimate import run as stage

    result = stage(config, run, gigabytes, hours)
    if as_json:
        _print_json(result.to_json())


@main.command("cache-teacher")
@_config_options
@_pause_options
def cache_teacher(config: RunConfig, session: Session) -> Outcome:
    """Run the teacher once and seal what a student needs.

    \b
    Example: sad-pipeline cache-teacher -c my.yaml --time-budget 11
    """
    from stages.cache_teacher import run as stage

    return stage(config, session)


@main.command("train-student")
@_config_options
@_pause_options
@click.option("--use-sealed-only", is_flag=True, help="Train on the shards sealed so far, and on no others later.")
@click.option(
    "--fork-from",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Begin from another run's newest checkpoint, or from the folder of one, whatever its schedule.",
)
def train_student(config: RunConfig, session: Session, use_sealed_only: bool, fork_from: Path | None) -> Outcome:
    """Train the student from the sealed cache; the teacher is not needed.

    \b
    Example: sad-pipeline train-student -c my.yaml --set train.steps=2000
    """
    from stages.train_student import run as stage

    return stage(config, session, use_sealed_only=use_sealed_only, fork_from=fork_from)


@main.command("eval")
@_config_options
@_json_option
def evaluate(config: RunConfig, run: RunDirectory, as_json: bool) -> None:
    """Measure student and baselines on held-out text.

    \b
    Example: sad-pipeline eval -c my.yaml --set 'eval.baselines={plain: other/student/model}'
    """
    from stages.eval import run as stage

    result = stage(config, run)
    if as_json:
        _print_json(result.to_json())


@main.command()
@_run_dir_argument
@click.option("--compare", "compared", multiple=True, metavar="NAME=DIR", help="Another run to draw beside this one.")
def report(run_dir: Path, compared: tuple[str, ...]) -> None:
    """Draw a run as one self-contained page, report/report.html.

    \b
    Example: sad-pipeline report artifacts/demo
    """
    from stages.report import run as stage

    stage(RunDirectory(run_dir), compare=dict(_name_and_run(text) for text in compared))


# ------------------------------------------------------------------ looking after a cache


@main.command()
@_run_dir_argument
@_root_option
@_json_option
def verify(run_dir: Path, roots: tuple[Path, ...], as_json: bool) -> None:
    """Check every byte of a cache against its seals.

    Says what is wrong and what to run; then the exit code is 4.

    \b
    Example: sad-pipeline verify artifacts/demo
    """
    from stages.verify import run as stage

    problems = stage(run_dir, roots)
    if as_json:
        _print_json([{"path": str(p.path), "what": p.what, "fix": p.fix} for p in problems])
    if problems:
        click.get_current_context().exit(DamagedDataError.exit_code)


@main.command()
@_run_dir_argument
@_root_option
def repair(run_dir: Path, roots: tuple[Path, ...]) -> None:
    """Take damaged shards out, so that they are made again.

    What it cannot mend it says; then the exit code is 4.

    \b
    Example: sad-pipeline repair artifacts/demo
    """
    from stages.repair import run as stage

    if stage(run_dir, roots):
        click.get_current_context().exit(DamagedDataError.exit_code)


@main.command("inspect")
@_run_dir_argument
@_root_option
@click.option("--sequence", "sequences", type=int, multiple=True, metavar="I", help="Which sequences to show.")
@click.option("--positions", type=click.IntRange(min=1), default=12, show_default=True, help="Positions of each.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Teacher's choices shown.")
@_json_option
def look(run_dir: Path, roots: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Look into a cache: text, choices, statistics.

    \b
    Example: sad-pipeline inspect artifacts/demo --sequence 3
    """
    from stages.inspect import run as stage

    result = stage(run_dir, roots, **options)
    if as_json:
        _print_json(result)


def _name_and_run(text: str) -> tuple[str, RunDirectory]:
    name, equals, folder = text.partition("=")
    if not equals or not Path(folder).is_dir():
        raise ConfigError(f"--compare {text}: expected NAME=DIR with an existing run directory")
    return name, RunDirectory(Path(folder))


if __name__ == "__main__":
    main()
