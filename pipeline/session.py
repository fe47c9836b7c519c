"""What a session allows: how long it lasts, since when, and how much may be left behind.

A session is what ends by itself and takes along what is not saved: one start of a notebook, one job of a queue. Several
commands may run in it and share its time; a command that begins late has what the earlier ones left.
"""

from __future__ import annotations

import math
import os
import time
from datetime import datetime
from pathlib import Path

from pipeline.config import Place, Section, free
from pipeline.console import format_seconds, say, warn_once
from pipeline.errors import ConfigError
from pipeline.output_limit import OutputLimit, figure
from pipeline.pause import PauseRequest, process_seconds

START_VARIABLE = "SAD_SESSION_START"
"""environment variable: as --session-start, for all commands of a session"""
OF_A_NOTEBOOK = "KAGGLE_KERNEL_RUN_TYPE"
"""environment variable: set in every session of that host, whose machines begin with the session"""
_LONGEST_NOTEBOOK_SECONDS = 12 * 3600.0  # of that host: a machine that is older did not begin with the session
_EARLIEST = 1e9  # 2001: what is less is no time of a session in seconds since 1970
_CLOCK_SECONDS = 60.0  # two clocks, or one that was read and rounded, may differ by as much


class SessionSettings(Section):
    """When to pause by oneself; a flag of the same meaning goes first."""

    time_budget_hours: float | None = free(None, "pause before so many hours of a session have passed", gt=0)
    max_output_gb: float | None = free(None, "pause before the run directory takes more (GB of 10^9 bytes)", gt=0)
    output_folders: list[Place] = free([], "further folders that take part of max_output_gb, such as other runs")


def pause_request(settings: SessionSettings, run_dir: Path, start: str | None = None) -> PauseRequest:
    """When a command with these settings is to pause; says what is left of time and room, where either has an end.

    `start` is when the session began, as --session-start gives it.
    """
    age_seconds, since = session_age(start)
    budget_seconds = None
    if settings.time_budget_hours is not None:
        budget_seconds = settings.time_budget_hours * 3600
        left = max(0.0, budget_seconds - age_seconds - process_seconds())
        say(f"session: {format_seconds(budget_seconds)} from {since}, of which {format_seconds(left)} are left")
    elif start is not None:
        warn_once(f"the start of the session ({start}) has no meaning without a time budget")
    output = output_limit(settings, run_dir)
    if output.max_bytes is not None:
        say(f"output: at most {figure(output.max_bytes)}, {figure(output.used_bytes())} in {output.where}")
    return PauseRequest(budget_seconds, age_seconds, output)


def output_limit(settings: SessionSettings, run_dir: Path) -> OutputLimit:
    """What a run with these settings may leave on disk, and which disk that is."""
    folders = dict.fromkeys([run_dir, *map(Path, settings.output_folders)])
    return OutputLimit(None if settings.max_output_gb is None else round(settings.max_output_gb * 1e9), tuple(folders))


def session_age(start: str | None) -> tuple[float, str]:
    """How many seconds the session had lasted when this process began, and since when, in words.

    Without a `start`, a session is as old as the machine where a notebook host says so, else as this process. On such a
    host a machine that is older than the start goes before it: it ends with the session.
    """
    machine_seconds, given = _notebook_seconds(), ""
    if start is not None:
        now = time.time()
        seconds = now - parse_start(start, now)
        if machine_seconds is None or machine_seconds <= seconds:
            return max(0.0, seconds - process_seconds()), f"its start {format_seconds(seconds)} ago"
        given = f" (the given start {format_seconds(seconds)} ago is later)"
    if machine_seconds is not None:
        since = f"the start of this notebook's machine {format_seconds(machine_seconds)} ago{given}"
        return machine_seconds - process_seconds(), since
    if os.environ.get(OF_A_NOTEBOOK):
        warn_once(
            "when this notebook's session began is not known; its time counts from this command on. Give the start "
            f"with --session-start, or for all commands in the environment variable {START_VARIABLE}"
        )
    return 0.0, "the start of this command"


def parse_start(text: str, now: float) -> float:
    """Seconds since 1970 of a time given so, or as ISO 8601 (without a zone: this machine's own); not in the future."""
    try:
        moment = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text.strip()).timestamp()
        except (ValueError, OverflowError, OSError):
            moment = math.nan
    if not math.isfinite(moment) or moment < _EARLIEST:
        raise ConfigError(
            f"--session-start {text}: expected seconds since 1970, as `date +%s` prints them, or a time such as "
            "2026-11-25T08:30:00+00:00."
        )
    if moment > now + _CLOCK_SECONDS:
        clock = datetime.fromtimestamp(now).astimezone().isoformat(timespec="seconds")
        raise ConfigError(
            f"--session-start {text}: expected when the session began, found a time in the future. Now is {clock}, or "
            f"{now:.0f} seconds since 1970."
        )
    return moment


def _notebook_seconds() -> float | None:
    """How old the machine is on a notebook host; None elsewhere, and where it did not begin with the session."""
    seconds = _machine_seconds() if os.environ.get(OF_A_NOTEBOOK) else None
    if seconds is not None and process_seconds() <= seconds <= _LONGEST_NOTEBOOK_SECONDS:
        return seconds
    return None


def _machine_seconds() -> float | None:
    """How long process 1 has run, which in a container is how long there has been one; None where nobody says."""
    try:
        ticks = int(Path("/proc/1/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
