"""metrics.jsonl: one JSON line a logged step, without gaps or repeats however often the training was stopped.

What is measured of the machine (tokens a second, waiting, memory) goes to timings.jsonl, so that the metrics of a
resumed training are the same bytes as those of a straight one.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.distill.keeping.tensorboard_log import TensorBoardLog

METRICS, TIMINGS = "metrics.jsonl", "timings.jsonl"


class MetricsLog:
    """Appends lines to the two logs of a training; `sync` makes them durable with the checkpoint they belong to."""

    def __init__(self, folder: Path) -> None:
        self._metrics, self._timings = folder / METRICS, folder / TIMINGS
        self._folder, self._step = folder, 0
        self._board: TensorBoardLog | None = None

    @property
    def metrics_path(self) -> Path:
        """Where what is learned is logged."""
        return self._metrics

    def rewind(self, step: int, history: Path, forked: bool = False) -> None:
        """Start again after `step`, from the lines that `history` (this folder, or an earlier session's) holds.

        That the training stopped early there is not true of one `forked` from it.
        """
        for target, source in ((self._metrics, history / METRICS), (self._timings, history / TIMINGS)):
            lines = [line for line in read_log(source) if line["step"] <= step]
            kept = [line for line in lines if not (forked and line.get("kind") == "stopped")]
            files.write_file(target, "".join(f"{_to_json(line)}\n" for line in kept).encode())
        self._step = step

    @contextlib.contextmanager
    def shown_in_tensorboard(self, wanted: bool) -> Iterator[None]:
        """In the block lines go to TensorBoard too, where that is wanted; MachineError where it is not installed."""
        if not wanted:
            yield
            return
        self._board = TensorBoardLog(self._folder, self._step)
        try:
            yield
        finally:
            self._board.close()
            self._board = None

    def metrics(self, line: dict[str, Any]) -> None:
        """Log what was learned at a step."""
        files.append_lines(self._metrics, [_to_json(line)])
        if self._board is not None:
            self._board.add(line)

    def timings(self, line: dict[str, Any]) -> None:
        """Log what it took."""
        files.append_lines(self._timings, [_to_json(line)])
        if self._board is not None:
            self._board.add(line | {"kind": "machine"})

    def sync(self) -> None:
        """Make both logs durable."""
        for path in (self._metrics, self._timings):
            if path.exists():
                files.sync_file(path)
        if self._board is not None:
            self._board.flush()


def _to_json(line: dict[str, Any]) -> str:
    """A line of the log. JSON has no NaN and no infinity, and a step that was skipped has both: they become null."""
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in line.items()
    }
    return json.dumps(finite, allow_nan=False)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line that a crash left unfinished is dropped."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    read = []
    for line in lines:
        try:
            read.append(json.loads(line))
        except ValueError:
            break
    return read
