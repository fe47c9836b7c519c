"""One run: a directory with the resolved config and what its stages left in it."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline import files
from pipeline.config import Section, dump_config
from pipeline.console import say
from pipeline.errors import ConfigError, DamagedDataError, IdentityError, IncompleteInputError, MachineError
from pipeline.pause import PausedError, PauseRequest, WaitsFor
from pipeline.refusals import reading_errors, storage_errors

State = Literal["running", "complete", "paused", "failed"]


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Where everything of a run lies."""

    root: Path

    @property
    def cache(self) -> Path:
        """Plan, sequences, shards and seals."""
        return self.root / "cache"

    @property
    def student(self) -> Path:
        """Checkpoints, metrics and the finished model."""
        return self.root / "student"

    @property
    def model(self) -> Path:
        """What `from_pretrained` loads."""
        return self.student / "model"

    @property
    def metrics(self) -> Path:
        """One JSON line a logged step."""
        return self.student / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """One folder a checkpoint."""
        return self.student / "checkpoints"

    @property
    def evaluation(self) -> Path:
        """The figures eval leaves."""
        return self.root / "eval" / "eval.json"

    @property
    def report(self) -> Path:
        """The page report leaves."""
        return self.root / "report" / "report.html"

    @property
    def quality(self) -> Path:
        """Trainings and figures of a study."""
        return self.root / "quality"

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.root / "config.yaml"

    @property
    def status(self) -> Path:
        """Where the run stands."""
        return self.root / "status.json"

    @contextlib.contextmanager
    def at_work(
        self, stage: str, config: Section | None = None, command: list[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Hold the run for one stage: one process at a time, the resolved config first, and a word on failure.

        Yields how the stage's last start ended, an entry of `stages_of`; empty where there was none.

        `command` is what a stage that is killed goes on by; without one it begins anew. A command that is refused
        leaves config.yaml and status.json as they were: the run is what it was before. One that could not begin, for
        want of its input or of a machine that is fit for it, is a failure, and leaves config.yaml as it was.
        """
        with files.hold_lock(self.root / ".lock", "at work in this run directory"), reading_errors(self.root):
            for folder in (self.root, *self.root.rglob("*/")):
                if os.access(folder, os.R_OK | os.W_OK | os.X_OK):  # another user's holds nothing of this run
                    files.sweep_temporary(folder)
            self._settle()
            before = {path: path.read_bytes() for path in (self.config, self.status) if path.is_file()}
            earlier = stages_of(self.read_status()).get(stage, {})
            if config is not None:
                files.write_file(self.config, dump_config(config))
            self.write_status(stage, "running", next_command=command)
            there = self._files()
            try:
                with reading_errors(self.root):
                    yield earlier
            except BaseException as error:
                with contextlib.suppress(Exception):
                    refused = isinstance(error, (ConfigError, IdentityError))
                    unable = isinstance(error, (IncompleteInputError, MachineError)) and self._files() <= there
                    if (refused or unable) and self.config in before:
                        files.write_file(self.config, before[self.config])
                    if refused and self.status in before:
                        files.write_file(self.status, before[self.status])
                    else:
                        self.write_status(stage, "failed", message=str(error) or type(error).__name__)
                raise

    def _files(self) -> set[Path]:
        return {path for path in self.root.rglob("*") if path.is_file()}

    def _settle(self) -> None:
        """Make durable the names that an earlier start gave or took, and was killed before it could.

        From here on they are taken for safe, and what is sealed below them is said to be. What cannot be written is
        not this run's, such as a read-only folder that a link leads to.
        """
        for folder in (*_perhaps_new_above(self.root), self.root, *self.root.rglob("*/")):
            if os.access(folder, os.W_OK):
                with storage_errors(folder):
                    files.sync_folder(folder)

    def write_status(
        self,
        stage: str,
        state: State,
        progress: dict[str, Any] | None = None,
        message: str = "",
        next_command: list[str] | None = None,
        waits_for: WaitsFor | None = None,
    ) -> None:
        """Leave status.json for schedulers and people: where the run stands and what to run next.

        The top level speaks of the stage that ran last; `stages` keeps the last state of each, in the order they ran.
        The next command of a stage that stands paused stays the run's own, whatever ran after it; a running one has
        its own already, which a kill leaves there. Where a command would pause again at once, `waits_for` beside it
        says what is to be seen to first; elsewhere there is none.
        """
        entry = {
            "state": state,
            "progress": progress or {},
            "message": message,
            "next_command": shlex.join(next_command) if next_command else None,
        } | ({"waits_for": waits_for} if waits_for else {})
        stages = {name: left for name, left in stages_of(self.read_status()).items() if name != stage} | {stage: entry}
        paused = [left for left in stages.values() if left["state"] == "paused"]
        following = paused[-1] if paused and not next_command else entry
        command = {key: following[key] for key in ("next_command", "waits_for") if key in following}
        files.write_json(self.status, {"stage": stage, **entry, **command, "stages": stages})

    def read_status(self) -> dict[str, Any]:
        """What status.json says; nothing where there is none, or none that can be read."""
        with contextlib.suppress(DamagedDataError):
            return files.read_json(self.status) if self.status.is_file() else {}
        return {}


def _perhaps_new_above(root: Path) -> Iterator[Path]:
    """The folders above a run directory, nearest first, in which a start may have made a name.

    That is up to the working folder, which was there; elsewhere as far as one may write, on the same file system.
    """
    device, here = root.stat().st_dev, Path.cwd()
    for folder in Path(os.path.abspath(root)).parents:
        if not os.access(folder, os.R_OK | os.W_OK) or folder.stat().st_dev != device:
            return
        yield folder
        if folder == here:
            return


def stages_of(status: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Stage -> its last state, progress, message and next command, from a status; an older one knows one stage.

    What is not of that form is left out: a status that was damaged stops neither a stage nor a report.
    """
    if not isinstance(stages := status.get("stages"), dict):
        stages = {str(status["stage"]): status} if "stage" in status else {}
    entries = {name: left for name, left in stages.items() if isinstance(left, dict)}
    return {name: _entry_of(left) for name, left in entries.items() if isinstance(left.get("state"), str)}


def paused_without_progress(entry: Mapping[str, Any]) -> bool:
    """Whether a stage ended in a pause before there was anything to count, and not for want of something."""
    return entry.get("state") == "paused" and not entry["progress"] and "waits_for" not in entry


def _entry_of(left: Mapping[str, Any]) -> dict[str, Any]:
    progress, message, command, waits_for = map(left.get, ("progress", "message", "next_command", "waits_for"))
    numbers = progress.items() if isinstance(progress, dict) else ()
    return {
        "state": left["state"],
        "progress": {key: number for key, number in numbers if isinstance(number, int)},
        "message": message if isinstance(message, str) else "",
        "next_command": command if isinstance(command, str) else None,
    } | ({"waits_for": waits_for} if isinstance(waits_for, str) else {})


@dataclass(frozen=True, slots=True)
class Session:
    """What every stage is given beside its config: its run, when to pause, and the command that started it."""

    run: RunDirectory
    pause: PauseRequest
    command: list[str]

    def finish(self, stage: str, outcome: Outcome) -> Outcome:
        """Leave the stage's outcome in status.json and say it."""
        self.run.write_status(
            stage,
            outcome.state,
            progress=outcome.progress,
            message=outcome.message,
            next_command=self.command if outcome.state == "paused" else None,
            waits_for=outcome.waits_for,
        )
        say(f"{stage}: {outcome.message}")
        if outcome.state == "paused":
            once = f", once there is {outcome.waits_for}" if outcome.waits_for else ""
            say(f"To continue{once}: {shlex.join(self.command)}")
        return outcome


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a stage ended."""

    state: Literal["complete", "paused"]
    message: str
    progress: dict[str, Any]
    waits_for: WaitsFor | None = None
    """what a pause does not end without"""

    def refuse_pause(self) -> None:
        """PausedError, with its message and what it waits for, where a stage that another needs was paused."""
        if self.state == "paused":
            stop = PausedError(self.message)
            stop.waits_for = self.waits_for
            raise stop

    @classmethod
    def paused(cls, where: str, reason: str | PausedError, progress: dict[str, Any] | None = None) -> Outcome:
        """A pause, `where` in words, and why."""
        waits_for = reason.waits_for if isinstance(reason, PausedError) else None
        return cls("paused", f"paused {where}: {reason}", progress or {}, waits_for)

    @classmethod
    def paused_after_step(cls, done: int, num_steps: int, reason: str | PausedError) -> Outcome:
        """A pause of a training of which `done` steps are done, and why."""
        return cls.paused(f"after step {done:,} of {num_steps:,}", reason, {"steps": done, "of": num_steps})
