"""Small checkpoints, to see which of them stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipeline.distill.keeping.checkpoint import save_checkpoint


def save(folder: Path, step: int, best: int | None = None, prefix: str = "step") -> Path:
    """A small checkpoint that refers to the best weights of a step."""
    state: dict[str, Any] = {"best": None if best is None else {"step": best, "weights": "raw", "ce": 1.0}}
    return save_checkpoint(folder, prefix, step, {"weights": {"w": torch.full((64,), float(step))}}, state).folder


def names(folder: Path) -> list[str]:
    """What is there, shortened: s4 for a checkpoint of step 4, b4 for best weights."""
    return sorted(f"{path.name[0]}{int(path.name[-8:])}" for path in folder.iterdir())
