"""A training's log lines as TensorBoard shows them, for those who ask for it (`train.tensorboard`).

Event files are TensorBoard's own format, written by its own writer, not through pipeline/files.py: they are a view of
metrics.jsonl and timings.jsonl that nothing here reads back, and may be deleted at any time.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import MachineError

FOLDER = "tensorboard"
_NOT_SHOWN = ("step", "kind", "weights")


class TensorBoardLog:
    """Turns log lines into scalars: `train/ce`, `validation-ema/ce`, `machine/tokens_per_second`.

    `step` is where this start goes on: what an earlier one left beyond it is hidden from view.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._writer = _open_writer(folder / FOLDER, step + 1)

    def add(self, line: Mapping[str, Any]) -> None:
        """Show the numbers of a line; what is not finite, and what is no number, is left out."""
        group = "-".join(str(line[key]) for key in ("kind", "weights") if key in line)
        for name, value in line.items():
            if name not in _NOT_SHOWN and isinstance(value, (int, float)) and math.isfinite(value):
                self._writer.add_scalar(f"{group}/{name}", value, line["step"])

    def flush(self) -> None:
        """Let what was added be seen."""
        self._writer.flush()

    def close(self) -> None:
        """Finish the file of events: nothing more is added."""
        self._writer.close()


def refuse_without_tensorboard() -> None:
    """MachineError, with what to install, where TensorBoard's writer is not there."""
    try:
        importlib.import_module("torch.utils.tensorboard")
    except ImportError as error:
        raise MachineError(
            f"train.tensorboard: its writer cannot be loaded ({error}). Install it with: pip install "
            '"sad-pipeline[tensorboard]", or leave train.tensorboard off: metrics.jsonl and the report hold the same.'
        ) from error


def _open_writer(folder: Path, first_step: int) -> Any:
    refuse_without_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first_step)
