"""Pace, waiting and memory of a stretch of training, by a clock that is set by hand."""

from __future__ import annotations

import pytest
import torch

from pipeline.distill import stopwatch as stopwatch_module
from pipeline.distill.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is: its last entry."""
    now = [100.0]
    monkeypatch.setattr(stopwatch_module.time, "monotonic", lambda: now[-1])
    return now


def test_a_lap_is_of_the_steps_since_the_last_one_and_of_nothing_between_them(clock: list[float]) -> None:
    watch = Stopwatch(torch.device("cpu"))
    clock.append(102.0)
    watch.stop(1000)
    clock.append(110.0)  # a validation
    watch.start()
    clock.append(113.0)
    watch.stop(1500)
    first = watch.lap(wait_seconds=0.5)
    assert (first["seconds"], first["tokens_per_second"], first["data_wait_share"]) == (5.0, 500.0, 0.1)
    assert first["memory_bytes"] > 1e6
    assert "memory_share" not in first

    watch.start()
    clock.append(114.0)
    watch.stop(2000)
    second = watch.lap(wait_seconds=0.75, memory_share=0.6)
    assert (second["seconds"], second["tokens_per_second"], second["data_wait_share"]) == (1.0, 2000.0, 0.25)
    assert second["memory_share"] == 0.6


def test_the_note_is_of_all_steps_so_far(clock: list[float]) -> None:
    watch = Stopwatch(torch.device("cpu"))
    for moment in (102.0, 108.0):
        clock.append(moment)
        watch.stop(1000)
        watch.start()
        watch.lap(wait_seconds=0.0)
    assert watch.note(wait_seconds=2.0, memory_share=None) == "data wait 25%"
    assert watch.note(wait_seconds=2.0, memory_share=0.957) == "data wait 25%, memory 96%"
