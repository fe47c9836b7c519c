"""The command line. Nothing heavy is imported until a command runs, so that --help is instant."""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import __version__
from pipeline.config import changed
from pipeline.errors import ConfigError, DamagedDataError, MachineError
from pipeline.runs import Outcome, RunDirectory, Session
from stages.cli_bench import bench
from stages.cli_options import (
    CONFIG_HELP,
    POSITIVE,
    Group,
    config_options,
    json_option,
    pause_options,
    print_json,
    root_option,
    run_dir_argument,
)

if TYPE_CHECKING:
    from stages.config import RunConfig

_GIGABYTES, _HOURS = 19, 11  # of a notebook with 20 GB and 12 hours, for a config that does not say
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(cls=Group, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="sad-pipeline")
def main() -> None:
    """Run a teacher once, keep what a student needs of it, and train the student from disk.

    \b
    sad-pipeline demo                      the whole pipeline on text every machine has, offline, on CPU
    sad-pipeline cache-teacher -c my.yaml  then train-student and eval with the same config, and report RUN_DIR
    """
    # Tokenizers warn when a process that used them forks; nothing here forks after using them in parallel.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its advice is to its own callers; errors are raised


# ------------------------------------------------------------------ the stages


@main.command()
@functools.partial(config_options, default="demo")
@pause_options
def demo(config: RunConfig, session: Session) -> Outcome:
    """Run all of it on text every machine has: offline, on CPU.

    \b
    Example: sad-pipeline demo
    """
    from stages.demo import run as stage

    return stage(config, session)


@main.command()
@functools.partial(config_options, required=False)
@click.option("--gb", "gigabytes", type=POSITIVE, help="Room on disk, instead of what the system reports.")
@click.option("--online", is_flag=True, help="Ask the hub, also where nothing of it is needed.")
@json_option
def doctor(config: RunConfig | None, run: RunDirectory, gigabytes: float | None, online: bool, as_json: bool) -> None:
    """Check whether this machine can run it, or a config.

    Card, precision, one real product, libraries, memory, disk; with a config also its models, text and cache, and
    whether memory and disk hold them. Each fault comes with what mends it; then the exit code is 5.

    \b
    Example: sad-pipeline doctor -c my.yaml
    """
    from stages.doctor import run as stage

    result = stage(config, run, gigabytes, online)
    if as_json:
        print_json(result.to_json())
    if not result.fit:
        click.get_current_context().exit(MachineError.exit_code)


@main.command()
@click.argument("wanted", metavar="[SECTION or KEY]", required=False)
@click.option("-c", "--config", "reference", metavar="CONFIG", help=CONFIG_HELP)
@json_option
def keys(wanted: str | None, reference: str | None, as_json: bool) -> None:
    """List the keys of a config: defaults, what they do.

    With -c the values of that config stand in place of the defaults.

    \b
    Example: sad-pipeline keys train.temperature
    """
    from stages.config import load_run_config
    from stages.keys import run as stage
    from stages.keys import text_of

    found = stage(wanted, None if reference is None else load_run_config(reference))
    if as_json:
        print_json([dataclasses.asdict(key) for key in found])
    else:
        click.echo(text_of(found))


@main.command()
@config_options
@click.option(
    "--gb", "gigabytes", type=POSITIVE, help=f"Room on the disk.  [session.max_output_gb, or {_GIGABYTES} without]"
)
@click.option("--hours", type=POSITIVE, help=f"Length of a session.  [session.time_budget_hours, or {_HOURS} without]")
@json_option
def estimate(config: RunConfig, run: RunDirectory, gigabytes: float | None, hours: float | None, as_json: bool) -> None:
    """Price a config on this machine.

    Tokens, bytes, hours, sessions and memory of what is left to do. Nothing is written.

    \b
    Example: sad-pipeline estimate -c my.yaml --gb 19 --hours 11
    """
    from stages.estimate import run as stage

    gigabytes = gigabytes or config.session.max_output_gb or _GIGABYTES
    hours = hours or config.session.time_budget_hours or _HOURS
    result = stage(config, run, gigabytes, hours)
    if as_json:
        print_json(result.to_json())


@main.command("cache-teacher")
@config_options
@pause_options
@click.option(
    "--workers", type=click.IntRange(min=1), help="Teachers at a time, each in a process.  [one a card; on a CPU one]"
)
def cache_teacher(config: RunConfig, session: Session, workers: int | None) -> Outcome:
    """Run the teacher once and seal what a student needs.

    \b
    Example: sad-pipeline cache-teacher -c my.yaml --time-budget 11
    """
    from stages.cache_teacher import run as stage

    if workers is not None:
        config = changed(config, teacher={"workers": workers})
    return stage(config, session)


@main.command("train-student")
@config_options
@pause_options
@click.option("--use-sealed-only", is_flag=True, help="Train on the shards sealed so far, and on no others later.")
@click.option(
    "--fork-from",
    type=click.Path(path_type=Path, file_okay=False),
    help="Begin from another run's newest checkpoint, or from the folder of one, whatever its schedule.",
)
@click.option(
    "--workers", type=click.IntRange(min=1), help="Processes that share each step.  [one a card; on a CPU one]"
)
def train_student(
    config: RunConfig, session: Session, use_sealed_only: bool, fork_from: Path | None, workers: int | None
) -> Outcome:
    """Train the student from the sealed cache.

    The teacher is not needed.

    \b
    Example: sad-pipeline train-student -c my.yaml --set train.steps=2000
    """
    from stages.train_student import run as stage

    if workers is not None:
        config = changed(config, train={"workers": workers})
    return stage(config, session, use_sealed_only=use_sealed_only, fork_from=fork_from)


@main.command("eval")
@config_options
@json_option
def eval_(config: RunConfig, run: RunDirectory, as_json: bool) -> None:
    """Measure student and baselines on held-out text.

    \b
    Example: sad-pipeline eval -c my.yaml --set 'eval.baselines={plain: other/student/model}'
    """
    from stages.eval import run as stage

    result = stage(config, run)
    if as_json:
        print_json(result.to_json())


@main.command()
@run_dir_argument
@click.option(
    "--compare", "compared", multiple=True, metavar="NAME=DIR", help="Another run to draw beside this one; repeatable."
)
def report(run_dir: Path, compared: tuple[str, ...]) -> None:
    """Draw a run as one self-contained page, report/report.html.

    \b
    Example: sad-pipeline report artifacts/demo
    """
    from stages.report import run as stage

    runs = [_name_and_run(text) for text in compared]
    if len(names := dict(runs)) < len(runs):
        raise ConfigError(f"--compare: expected a name of its own for each run, found {', '.join(n for n, _ in runs)}")
    stage(RunDirectory(run_dir), compare=names)


# ------------------------------------------------------------------ looking after a cache


@main.command()
@run_dir_argument
@root_option
@json_option
def verify(run_dir: Path, roots: tuple[Path, ...], as_json: bool) -> None:
    """Check every byte of a cache, and of what a training left.

    Says what is wrong and what to run; then the exit code is 4.

    \b
    Example: sad-pipeline verify artifacts/demo
    """
    from stages.verify import run as stage

    problems = stage(run_dir, roots)
    if as_json:
        print_json([{"path": str(p.path), "what": p.what, "fix": p.fix} for p in problems])
    if problems:
        click.get_current_context().exit(DamagedDataError.exit_code)


@main.command()
@run_dir_argument
@root_option
def repair(run_dir: Path, roots: tuple[Path, ...]) -> None:
    """Take damaged shards out, so that they are made again.

    Lists what it cannot repair; then the exit code is 4.

    \b
    Example: sad-pipeline repair artifacts/demo
    """
    from stages.repair import run as stage

    if stage(run_dir, roots):
        click.get_current_context().exit(DamagedDataError.exit_code)


@main.command("inspect")
@run_dir_argument
@root_option
@click.option("--sequence", "sequences", type=int, multiple=True, metavar="I", help="Which sequences to show.")
@click.option("--positions", type=click.IntRange(min=1), default=12, show_default=True, help="Positions of each.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Teacher's choices shown.")
@json_option
def inspect_(run_dir: Path, roots: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Look into a cache: text, choices, statistics.

    \b
    Example: sad-pipeline inspect artifacts/demo --sequence 3
    """
    from stages.inspect import run as stage

    result = stage(run_dir, roots, **options)
    if as_json:
        print_json(result)


def _name_and_run(text: str) -> tuple[str, RunDirectory]:
    name, equals, folder = text.partition("=")
    if not equals:
        raise ConfigError(f"--compare {text}: expected NAME=DIR, such as labels=artifacts/my-labels")
    if not Path(folder).is_dir():
        raise ConfigError(f"--compare {text}: no such folder: {folder}. Name an existing run directory behind the =")
    return name, RunDirectory(Path(folder))


main.add_command(bench)


if __name__ == "__main__":
    main()
