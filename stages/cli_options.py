"""What the commands have in common: errors, the config and the run, pausing, JSON."""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline.config import parse_config
from pipeline.console import say
from pipeline.errors import ConfigError, SadError
from pipeline.pause import SIGNALS
from pipeline.runs import Outcome, RunDirectory, Session
from pipeline.session import START_VARIABLE, SessionSettings, pause_request

POSITIVE = click.FloatRange(min=0, min_open=True)
_START = "--session-start"
CONFIG_HELP = (
    "A file, or one that is bundled: bench, demo, kaggle-chat, kaggle-p100, kaggle-t4x2, original-3.0, quality."
)


class Group(click.Group):
    """Turns this project's errors into a message on stderr and their exit code, and Ctrl-C into its own."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; unexpected errors keep their traceback and exit with 1."""
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            context.exit(128 + signal.SIGINT)
        except SadError as error:
            say(f"error: {error}")
            context.exit(error.exit_code)

    def list_commands(self, context: click.Context) -> list[str]:
        """In the order they are used, not of the alphabet."""
        return list(self.commands)


def config_options(
    command: Callable[..., Any], default: str | None = None, required: bool = True
) -> Callable[..., Any]:
    """-c, --set and --run-dir, resolved to a config and a run directory; where it is not required, perhaps to None."""

    # click takes an explicit default, even None, for a value that is there: then nothing would be missing.
    origin: dict[str, Any] = {"default": default, "show_default": True} if default else {"required": required}

    @click.option("-c", "--config", "reference", metavar="CONFIG", help=CONFIG_HELP, **origin)
    @click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY.SUB=VALUE",
        help="Change one of `sad-pipeline keys`; repeatable.",
    )
    @click.option("--run-dir", type=click.Path(path_type=Path), help="Default: artifacts/<config name>.")
    @functools.wraps(command)
    def wrapped(reference: str | None, overrides: tuple[str, ...], run_dir: Path | None, **others: Any) -> Any:
        from stages.config import load_run_config

        if reference is None and overrides:
            raise ConfigError(f"--set {overrides[0]}: changes a key of a config, and none is named. Add -c CONFIG.")
        config = None if reference is None else load_run_config(reference, overrides)
        folder = run_dir or Path("artifacts") / (config.name if config else "")
        return command(config=config, run=RunDirectory(folder), **others)

    return wrapped


def pause_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags of a session, which go before its config; the command is given a Session and returns an Outcome."""

    @click.option(
        "--time-budget", type=POSITIVE, metavar="HOURS", help="Pause before so many hours of the session have passed."
    )
    @click.option(
        _START,
        metavar="WHEN",
        envvar=START_VARIABLE,
        show_envvar=True,
        help="When the session began: seconds since 1970, or a time. Without it: when the Kaggle notebook, or this "
        "command, began. Of this and a Kaggle notebook's own the earlier one counts.",
    )
    @click.option("--max-output-gb", type=POSITIVE, metavar="GB", help="Pause before the run takes more.")
    @click.option("--paused-exit-code", type=int, default=0, metavar="N", help="Exit code of a clean pause.  [0]")
    @functools.wraps(command)
    def wrapped(
        config: Any,
        run: RunDirectory,
        time_budget: float | None,
        session_start: str | None,
        max_output_gb: float | None,
        paused_exit_code: int,
        **others: Any,
    ) -> None:
        _refuse_launcher()
        flags = {"time_budget_hours": time_budget, "max_output_gb": max_output_gb}
        values = config.session.model_dump() | {key: value for key, value in flags.items() if value is not None}
        settings = parse_config(SessionSettings, values, where="--time-budget and --max-output-gb")
        with pause_request(settings, run.root, session_start) as pause:
            session = Session(run, pause, command=["sad-pipeline", *_without_start(sys.argv[1:])])
            outcome: Outcome = command(config=config, session=session, **others)
        atexit.register(_pass_over_a_signal)
        if outcome.state == "paused" and paused_exit_code:
            click.get_current_context().exit(paused_exit_code)

    return wrapped


def _pass_over_a_signal() -> None:
    """From here to the end of the process a first signal changes nothing of how the command ended; once more leaves."""

    def pass_over(*_: object) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    for number in SIGNALS:
        signal.signal(number, pass_over)


def _refuse_launcher() -> None:
    """ConfigError for one of several processes of a launcher of training scripts.

    WORLD_SIZE alone is no sign of one: job queues set it for a process that is alone on its machine.
    """
    world_size = os.environ.get("WORLD_SIZE", "")
    if world_size.isdecimal() and int(world_size) > 1 and os.environ.keys() & {"LOCAL_RANK", "TORCHELASTIC_RUN_ID"}:
        raise ConfigError(
            f"WORLD_SIZE: expected one process, found one of {world_size} that torchrun, or a launcher like it, began. "
            "Run the command once and by itself: cache-teacher and train-student start their own processes, one a card "
            "or as many as --workers says. In a shell that a launcher left so: unset WORLD_SIZE."
        )


def _without_start(arguments: list[str]) -> list[str]:
    """The arguments for a later start, which is one of another session."""
    kept = []
    words = iter(arguments)
    for word in words:
        if word == _START:
            next(words, None)
        elif not word.startswith(f"{_START}="):
            kept.append(word)
    return kept


run_dir_argument = click.argument("run_dir", type=click.Path(path_type=Path, exists=True, file_okay=False))
root_option = click.option(
    "--root", "roots", multiple=True, type=click.Path(path_type=Path), help="A further folder with parts of the cache."
)
json_option = click.option("--json", "as_json", is_flag=True, help="The result as JSON, alone on stdout.")


def print_json(value: Any) -> None:
    """A result, alone on stdout."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))
