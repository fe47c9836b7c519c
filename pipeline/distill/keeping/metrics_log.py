"""metrics.jsonl: one JSON line a logged step, without gaps or repeats however often the training was stopped.

What is measured of the machine (tokens a second, waiting, memory) goes to timings.jsonl, so that the metrics of a
resumed training are the same bytes as those of a straight one.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.console import warn_once
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

    def rewind(self, step: int, history: Path, logged: Mapping[str, Any] | None = None, forked: bool = False) -> None:
        """Start again after `step`, from the lines that `history` (this folder, or an earlier session's) holds.

        `logged` is what `digest` gave then: where the lines are not those, it is said. That the training stopped early
        there is not true of one `forked` from it.
        """
        if logged is not None and (what := what_differs(history / METRICS, logged)) is not None:
            warn_once(f"{history / METRICS}: {what}; training goes on all the same, which reads none of it")
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
        """Log what steps took of the machine."""
        files.append_lines(self._timings, [_to_json(line)])
        if self._board is not None:
            self._board.add(line | {"kind": "machine"})

    def digest(self) -> dict[str, Any]:
        """Size and xxh3-128 of what has been learned so far, for a checkpoint."""
        found = files.digest_file(self._metrics) if self._metrics.exists() else files.digest_bytes(b"")
        return {"size_bytes": found.size_bytes, "xxh3_128": found.xxh3_128}

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


def what_differs(path: Path, logged: Mapping[str, Any]) -> str | None:
    """How the beginning of a log is not what `MetricsLog.digest` gave of it; None where it is."""
    content = path.read_bytes() if path.is_file() else b""
    size_bytes = logged["size_bytes"]
    if len(content) < size_bytes:
        return f"{len(content):,} bytes, where {size_bytes:,} had been logged"
    if files.digest_bytes(content[:size_bytes]).xxh3_128 != logged["xxh3_128"]:
        return "its lines are not as they were logged"
    return None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line that a crash left unfinished is dropped, a damaged one left out and told."""
    if not path.is_file():
        return []
    read = []
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1], 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if isinstance(line, dict) and type(line.get("step")) is int:
            read.append(line)
        else:
            warn_once(f"{path}: line {number:,} is damaged, and left out")
    return read
