"""The commands of `sad-pipeline bench`."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from pipeline.console import say
from pipeline.pause import PausedError
from pipeline.runs import RunDirectory, Session
from pipeline.session import START_VARIABLE, pause_request
from stages.cli_options import Group, config_options, json_option, print_json

if TYPE_CHECKING:
    from pipeline.benches.results import Result
    from pipeline.models.settings import Device
    from stages.config import RunConfig


@click.group(cls=Group)
def bench() -> None:
    """Measure time, memory and bytes on this machine.

    Each figure stands beside its goal. A goal that is missed is said, and is no error. What has to be made first (a
    small teacher, about 7 minutes on two cores, and caches of it) is kept in the run directory.

    \b
    Example: sad-pipeline bench head
    """


def bench_command(command: Callable[..., list[Result]]) -> Callable[..., None]:
    """--json, and the table of what the command returns."""

    @json_option
    @functools.wraps(command)
    def wrapped(as_json: bool, **options: Any) -> None:
        from pipeline.benches.machine import describe_machine
        from pipeline.benches.results import to_json
        from pipeline.benches.table import print_table

        results, machine = command(**options), describe_machine()
        print_table(f"bench {command.__name__}", machine, results)
        if as_json:
            print_json(to_json(machine, results))

    return wrapped


def session_options(command: Callable[..., Any], default: str = "bench") -> Callable[..., Any]:
    """-c, --set and --run-dir; the command is given a Session, and may raise PausedError."""

    @functools.partial(config_options, default=default)
    @functools.wraps(command)
    def wrapped(config: RunConfig, run: RunDirectory, **others: Any) -> None:
        given = os.environ.get(START_VARIABLE) or None
        start = None if config.session.time_budget_hours is None else given  # without a budget it is for other commands
        with pause_request(config.session, run.root, start) as pause:
            session = Session(run, pause, command=["sad-pipeline", *sys.argv[1:]])
            try:
                command(config=config, session=session, **others)
            except PausedError as stop:
                say(f"bench: {stop}. The same command goes on from there")

    return wrapped


device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to measure."
)
count = functools.partial(click.option, type=click.IntRange(min=2), show_default=True)
size = functools.partial(click.option, type=click.IntRange(min=1), show_default=True)
rounds_of = functools.partial(size, "--rounds", help="Timed rounds; the median counts.")


@bench.command()
@bench_command
@count("--positions", default=4096, help="N, at once.")
@count("--width", default=576, help="D, of the hidden states.")
@count("--vocab-size", default=49_152, help="V; 151936 is another usual one.")
@count("--head-size", default=256, help="K.")
@device_option
@rounds_of(default=9)
def head(device: Device, rounds: int, **sizes: int) -> list[Result]:
    """The loss against plain cross-entropy, in time and memory.

    Also against the same loss on whole logits, PyTorch's own chunked cross-entropy, and distillation on a few logits
    against all. Random numbers: it needs no model and no run directory.

    \b
    Example: sad-pipeline bench head --vocab-size 151936 --rounds 2
    """
    from pipeline.benches.head_cases import HeadSizes
    from stages.bench import head as stage

    return stage(HeadSizes(**sizes), device, rounds)


@bench.command()
@session_options
@bench_command
def codec(config: RunConfig, session: Session) -> list[Result]:
    """Bytes a cached position, and what rounding costs.

    \b
    Example: sad-pipeline bench codec --json
    """
    from stages.bench import codec as stage

    return stage(config, session)


@bench.command()
@session_options
@bench_command
@rounds_of(default=5)
def reader(config: RunConfig, session: Session, rounds: int) -> list[Result]:
    """Positions read a second, by one process.

    \b
    Example: sad-pipeline bench reader --json
    """
    from stages.bench import reader as stage

    return stage(config, session, rounds)


@bench.command()
@session_options
@bench_command
@click.option("--shape", help="Of the teacher.  [smollm2-135m on a CPU, llama-1b on a card]")
@size("--sequence-length", default=512, help="T.")
@size("--batch-size", default=8, help="Sequences a pass.")
@size("--num-batches", default=2, help="Passes in every round.")
@rounds_of(default=3)
@device_option
def capture(
    config: RunConfig, session: Session, shape: str | None, rounds: int, device: Device, **sizes: int
) -> list[Result]:
    """Capture against the teacher's bare forward pass.

    A named shape, random weights and random ids, whatever the config's teacher is; about 3 minutes on two cores.

    \b
    Example: sad-pipeline bench capture --num-batches 1
    """
    from stages.bench import capture as stage

    return stage(session, device, shape, rounds=rounds, **sizes)


@bench.command()
@session_options
@bench_command
@click.option("--student", default="smollm2-135m", show_default=True, help="Its shape.")
@click.option("--teacher", default="smollm2-360m", show_default=True, help="Of online distillation.")
@size("--batch-size", default=4, help="Sequences a step.")
@size("--sequence-length", default=512, help="T.")
@size("--steps", default=1, help="Steps of each side in every round.")
@rounds_of(default=3)
@device_option
def train(config: RunConfig, session: Session, device: Device, **sizes: Any) -> list[Result]:
    """Training against Trainer, labels only and online distillation.

    Named shapes, random weights and random ids, in float32, whatever the config trains; about 9 minutes on two cores.

    \b
    Example: sad-pipeline bench train --batch-size 2 --teacher smollm2-135m
    """
    from pipeline.benches.train import TrainSizes
    from stages.bench import train as stage

    return stage(session, device, TrainSizes(**sizes))


@bench.command()
@functools.partial(session_options, default="quality")
@click.option("--short/--long", default=True, help="The main arms after few steps, or all of it.  [short]")
@click.option("--arms", metavar="A,B", help="Only these, beside labels and full.")
@click.option("--seeds", type=click.IntRange(min=1), help="Of every arm.  [5 where a default hangs on it, else 3]")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Trainings at a time.  [one a core with a teacher made here, else 1]"
)
@json_option
def quality(
    config: RunConfig,
    session: Session,
    short: bool,
    arms: str | None,
    seeds: int | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """What helps a student, and what a cache loses.

    One factor at a time beside full distillation, with the teacher in memory, and labels only: the same beginnings and
    order for every arm, each at its best of three learning rates. Every training is kept in the run directory.

    \b
    Example: sad-pipeline bench quality --arms default,bucket --seeds 3
    """
    from pipeline.benches.machine import describe_machine
    from pipeline.benches.quality.table import print_findings
    from pipeline.benches.results import to_json
    from stages.bench_quality import run as stage

    names = None if arms is None else [name.strip() for name in arms.split(",") if name.strip()]
    found, machine = stage(config, session, short, names, seeds, workers), describe_machine()
    print_findings(machine, found.tables)
    if as_json:
        print_json(to_json(machine, found.results))
