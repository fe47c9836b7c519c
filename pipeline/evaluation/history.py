"""A training as its log lines tell it: series over steps, for the charts of the report."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.distill.guards.early_stopping import Waiting
from pipeline.distill.keeping.metrics_log import read_log
from pipeline.errors import DamagedDataError

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Curve:
    """A quantity over optimizer steps."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    def __bool__(self) -> bool:
        return bool(self.steps)

    @property
    def last(self) -> float:
        """The newest value."""
        return self.values[-1]

    def is_constant(self) -> bool:
        """Whether the quantity never moved."""
        return len(set(self.values)) == 1


@dataclass(frozen=True, slots=True)
class TrainingHistory:
    """What metrics.jsonl and timings.jsonl of one training hold."""

    train: tuple[Record, ...]
    validation: tuple[Record, ...]
    timings: tuple[Record, ...]
    stopped: Record | None = None
    """where and after how many evaluations it stopped early, if it did"""

    def curve(self, name: str) -> Curve:
        """A quantity of the training lines, without steps where it is absent or not finite."""
        return _curve(self.train, name)

    def timing(self, name: str) -> Curve:
        """A quantity of the timing lines."""
        return _curve(self.timings, name)

    def mean_timing(self, name: str) -> float | None:
        """The mean of a quantity of the timing lines over the time that each is of; None where there are none.

        Lines of before they said their seconds count alike.
        """
        lines = [line for line in self.timings if _is_finite(line.get(name))]
        if not lines:
            return None
        seconds = [float(line["seconds"]) if _is_finite(line.get("seconds")) else 1.0 for line in lines]
        total = sum(float(line[name]) * time for line, time in zip(lines, seconds, strict=True))
        return total / max(sum(seconds), 1e-9)

    def validated(self, name: str, weights: str) -> Curve:
        """A quantity of the validation lines of the "raw" or the "ema" weights."""
        return _curve(tuple(line for line in self.validation if line.get("weights") == weights), name)

    def best_validation(self, name: str = "ce") -> Curve:
        """A quantity of the validation lines of the weights, raw or averaged, whose cross-entropy ends lower; empty
        where there are none."""
        ends = {weights: curve.last for weights in ("raw", "ema") if (curve := self.validated("ce", weights))}
        return self.validated(name, min(ends, key=lambda weights: ends[weights], default="raw"))

    @property
    def last_step(self) -> int:
        """The last step any line speaks of."""
        return max((int(line["step"]) for line in (*self.train, *self.validation)), default=0)


def read_history(metrics: Path, timings: Path) -> TrainingHistory | None:
    """Read the log lines of a training; None where no training has begun."""
    lines = read_log(metrics)
    if not lines:
        return None
    return TrainingHistory(
        train=tuple(line for line in lines if line.get("kind") == "train"),
        validation=tuple(line for line in lines if line.get("kind") == "validation"),
        timings=tuple(read_log(timings)),
        stopped=next((line for line in lines if line.get("kind") == "stopped"), None),
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a training stands: what its newest checkpoint, and so the next start, begins from."""

    step: int
    training_hash: str
    stopped_early: bool = False
    on_some_shards: bool = False
    """whether it is frozen to the shards that were sealed when it began"""


def read_standing(checkpoints: Path) -> Standing | None:
    """The newest finished checkpoint, by its state alone: tensors are neither read nor checked."""
    commits = sorted(checkpoints.glob("step-*/COMMIT.json"), key=lambda path: path.parent.name, reverse=True)
    for commit in commits:
        if not commit.parent.name.removeprefix("step-").isdecimal():  # a renamed copy is somebody's own
            continue
        with contextlib.suppress(DamagedDataError, OSError, KeyError, ValueError):
            state = files.read_json(commit.with_name("state.json"))
            training = state.get("training")
            frozen = isinstance(training, dict) and training.get("frozen_shards") is not None
            return Standing(int(state["step"]), str(state["training_hash"]), Waiting.of(state).stopped, frozen)
    return None


def _curve(lines: tuple[Record, ...], name: str) -> Curve:
    pairs = [(line["step"], float(line[name])) for line in lines if _is_finite(line.get(name))]
    return Curve(tuple(step for step, _ in pairs), tuple(value for _, value in pairs))


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
