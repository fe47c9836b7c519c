"""One run: a directory with the resolved config and what its stages left in it."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline import files
from pipeline.config import Section, dump_config
from pipeline.console import say
from pipeline.errors import ConfigError, IdentityError
from pipeline.pause import PauseRequest

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

    @contextlib.contextmanager
    def at_work(self, stage: str, config: Section | None = None) -> Iterator[None]:
        """Hold the run for one stage: one process at a time, the resolved config first, and a word on failure.

        A config that the stage refuses does not stay in the place of the one that the run was made with.
        """
        path = self.root / "config.yaml"
        with files.hold_lock(self.root / ".lock", "at work in this run directory"):
            for folder in (self.root, *self.root.rglob("*/")):
                files.sweep_temporary(folder)
            before = path.read_bytes() if path.is_file() else None
            if config is not None:
                files.write_file(path, dump_config(config))
            self.write_status(stage, "running")
            try:
                yield
            except BaseException as error:
                with contextlib.suppress(Exception):
                    if before is not None and isinstance(error, (ConfigError, IdentityError)):
                        files.write_file(path, before)
                    self.write_status(stage, "failed", message=str(error) or type(error).__name__)
                raise

    def write_status(
        self,
        stage: str,
        state: State,
        progress: dict[str, Any] | None = None,
        message: str = "",
        next_command: list[str] | None = None,
    ) -> None:
        """Leave status.json for schedulers and people: where the run stands and what to run next."""
        files.write_json(
            self.root / "status.json",
            {
                "stage": stage,
                "state": state,
                "progress": progress or {},
                "message": message,
                "next_command": shlex.join(next_command) if next_command else None,
            },
        )


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
        )
        say(f"{stage}: {outcome.message}")
        if outcome.state == "paused":
            say(f"To continue: {shlex.join(self.command)}")
        return outcome


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a stage ended."""

    state: Literal["complete", "paused"]
    message: str
    progress: dict[str, Any]
