"""What a stretch of training took: tokens a second, the share of time spent waiting for data, memory."""

from __future__ import annotations

import time
from typing import Any

import torch

from pipeline.models.device import peak_memory_bytes


class Stopwatch:
    """Adds up positions and seconds of training between two laps; validations and checkpoints are left out."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._positions, self._seconds, self._wait_before, self._all_seconds = 0, 0.0, 0.0, 0.0
        self._started = time.monotonic()

    def start(self) -> None:
        """From here on seconds count as training."""
        self._started = time.monotonic()

    def stop(self, positions: int) -> None:
        """A step is done, the wait for its data included."""
        seconds = time.monotonic() - self._started
        self._positions += positions
        self._seconds += seconds
        self._all_seconds += seconds

    def note(self, wait_seconds: float, memory_share: float | None) -> str:
        """For the end of a progress line: the same shares, the wait for data over all steps so far."""
        memory = "" if memory_share is None else f", memory {memory_share:.0%}"
        return f"data wait {wait_seconds / max(self._all_seconds, 1e-9):.0%}{memory}"

    def lap(self, wait_seconds: float, memory_share: float | None = None) -> dict[str, Any]:
        """Figures since the last lap; `wait_seconds` is the reader's running total, `memory_share` of a card."""
        seconds = max(self._seconds, 1e-9)
        figures = {
            "seconds": seconds,
            "tokens_per_second": self._positions / seconds,
            "data_wait_share": (wait_seconds - self._wait_before) / seconds,
            "memory_bytes": peak_memory_bytes(self._device),
        }
        self._positions, self._seconds, self._wait_before = 0, 0.0, wait_seconds
        return figures if memory_share is None else figures | {"memory_share": memory_share}
