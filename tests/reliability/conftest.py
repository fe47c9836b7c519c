"""Fixtures of the suites: the toy project of the stages' tests, and a tally for each test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.scenes import Scene, make_capture, make_training
from tests.reliability.tally import LONG, Tally
from tests.stages.conftest import _one_thread, cached, toy, trained  # noqa: F401 - fixtures

_MEMORY, _ROOM = Path("/dev/shm"), 2 * 2**30


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """None of them belongs in the inner loop."""
    for item in items:
        if "tests/reliability/" in item.nodeid:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Where a test counts its points."""
    return Tally(request.node)


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A folder in memory, where the system has room there, for suites that lay out files by the thousand, and time none
    of it: on a disk that takes longer than what is tested."""
    there = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _ROOM
    already = Path(tempfile.gettempdir()).is_relative_to(_MEMORY)
    with tempfile.TemporaryDirectory(dir=_MEMORY if there and not already else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def scenes(memory: Path) -> dict[str, Scene]:
    """What is interrupted: a capture of 4 shards and a training of 6 steps; of 12 and 30 in a long run."""
    folder = memory / "scenes"
    training_settings = {"checkpoint_every": 2, "evaluate_every": 3, "validation_sequences": 2}
    if LONG:
        capture = make_capture(folder / "capture", shard_positions=600, num_texts=16)
        training = make_training(folder / "training", steps=30, **training_settings)
    else:
        capture = make_capture(folder / "capture", shard_positions=1200, num_texts=8)
        training = make_training(folder / "training", steps=6, **training_settings)
    return {scene.name: scene for scene in (capture, training)}
