"""A training that has ended: what its run holds, and what a further start makes of it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.stages.refusals import refuse
from tests.stages.toys import Toy, copy, status, tree
from tests.stages.trainings import STAGE, train, what_counts


def test_one_without_its_checkpoints_is_not_trained_anew(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    """As where they were removed to save room: hours would begin without a word, and replace the student."""
    run_dir = copy(trained, tmp_path / "run")
    shutil.rmtree(run_dir / "student" / "checkpoints")
    before = tree(run_dir / "student")
    for more in ([], ["--fork-from", str(trained)]):
        ended = toy.run(STAGE, run_dir, "--set", f"cache.roots=[{cached}]", *more)
        refuse(ended, 6, "a finished student is here", "train.roots", "--run-dir", str(run_dir / "student"))
        assert tree(run_dir / "student") == before
    assert "nothing left to do" in train(toy, cached, run_dir, "--set", f"train.roots=[{trained}]").stderr
    assert tree(run_dir / "student") == before


def test_what_ended_in_a_root_is_exported_from_there_and_not_copied(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    run_dir, roots = tmp_path / "run", ["--set", f"train.roots=[{trained}]"]
    told = train(toy, cached, run_dir, *roots).stderr
    assert f"the best weights so far are those of step 12, in {trained}/student/checkpoints/best-00000012" in told
    here, there = what_counts(run_dir), what_counts(trained)
    assert here == {name: content for name, content in there.items() if not name.startswith("checkpoints/")}
    assert "nothing left to do: 12 steps done" in train(toy, cached, run_dir, *roots).stderr
    refuse(toy.run(STAGE, run_dir, "--set", f"cache.roots=[{cached}]"), 6, "a finished student is here", "train.roots")
    toy.ran("eval", run_dir, "--set", f"cache.roots=[{cached}]", *roots)
    rows = json.loads((run_dir / "eval" / "eval.json").read_text())["rows"]
    assert {row["weights"] for row in rows if row["kind"] == "student"} == {"raw", "ema"}


def test_it_asks_for_nothing_that_only_steps_want(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run_dir, extra = copy(trained, tmp_path / "run"), ["--set", "train.tensorboard=true"]
    assert "nothing left to do" in train(toy, cached, run_dir, *extra).stderr
    shutil.rmtree(run_dir / "student" / "model")
    train(toy, cached, run_dir, *extra)
    assert status(run_dir)["state"] == "complete"
