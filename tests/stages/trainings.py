"""Running train-student on the toy, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.stages.toys import (
    Ended,
    Toy,
    tree,
)

STAGE = "train-student"


def train(toy: Toy, cached: Path, run_dir: Path, *more: str) -> Ended:
    """Run train-student on the cache of another run; it must succeed."""
    return toy.ran(STAGE, run_dir, "--set", f"cache.roots=[{cached}]", *more)


def checkpoint(run_dir: Path, step: int, prefix: str = "step") -> Path:
    """The folder of a checkpoint."""
    return run_dir / "student" / "checkpoints" / f"{prefix}-{step:08d}"


def what_counts(run_dir: Path) -> dict[str, str]:
    """Hashes of everything a resume must not change: last checkpoint, best weights, export, metrics."""
    wanted = ("metrics.jsonl", "model/", "checkpoints/step-00000012/", "checkpoints/best-00000012/")
    return {name: digest for name, digest in tree(run_dir / "student").items() if name.startswith(wanted)}


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (run_dir / "student" / "metrics.jsonl").read_text().splitlines()]


def shown(run_dir: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value, as TensorBoard's own reader gives them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(run_dir / "student" / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    return {tag: {event.step: event.value for event in reader.Scalars(tag)} for tag in reader.Tags()["scalars"]}
