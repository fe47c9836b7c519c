"""One toy project, its finished cache and its finished training, made once and copied by whoever changes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stages.clock import Clock
from tests.stages.toys import REPOSITORY, Toy, make_toy


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Runs that are compared bit for bit use the same number of threads, in this process and in others."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """Teacher, texts and config."""
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def cached(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose cache is complete; read it, or copy it."""
    run_dir = tmp_path_factory.mktemp("cached") / "run"
    toy.ran("cache-teacher", run_dir)
    return run_dir


@pytest.fixture(scope="session")
def trained(toy: Toy, cached: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose training went straight through, on the cache of `cached`; read it, or copy it."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    toy.ran("train-student", run_dir, "--set", f"cache.roots=[{cached}]")
    return run_dir


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands until something takes time."""
    return Clock(monkeypatch)
