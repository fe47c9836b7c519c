"""A study that the tests of this folder share."""

from __future__ import annotations

import json

import pytest

from tests.benches.quality.toy_study import ARMS, Study, quality


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study that went straight through: its folder, and what --json printed."""
    run_dir = tmp_path_factory.mktemp("study") / "run"
    ended = quality(run_dir, *ARMS, "--json")
    assert ended.code == 0, ended.stderr
    # Two beginnings, three rates with two seeds for each of six arms, and those from which full chooses first.
    assert "53 trainings" in ended.stderr
    return run_dir / "quality", json.loads(ended.stdout)
