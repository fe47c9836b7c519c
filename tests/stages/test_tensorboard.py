"""train-student with train.tensorboard: the log lines as event files, or in words why not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.stages.toys import Toy, tree
from tests.stages.trainings import STAGE, metrics, shown, train, what_counts

WANTED = ["--set", "train.tensorboard=true"]


def expected(run_dir: Path, kind: str, key: str, weights: str | None = None) -> dict[int, float]:
    lines = [line for line in metrics(run_dir) if line["kind"] == kind and line.get("weights") == weights]
    return {line["step"]: pytest.approx(line[key], rel=1e-6) for line in lines}


def test_shows_what_the_log_holds_also_after_a_stop(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra: pip install sad-pipeline[tensorboard]")
    run_dir = tmp_path / "run"
    train(toy, cached, run_dir, *WANTED, "--time-budget", "1e-6")
    train(toy, cached, run_dir, *WANTED)
    found = shown(run_dir)
    for key in ("loss", "ce", "gradient_norm", "gradient_norm_attention", "learning_rate", "skipped_steps"):
        assert found[f"train/{key}"] == expected(run_dir, "train", key)
    assert found["validation-ema/ce"] == expected(run_dir, "validation", "ce", "ema")
    timed = (run_dir / "student" / "timings.jsonl").read_text().splitlines()
    assert sorted(found["machine/tokens_per_second"]) == [json.loads(line)["step"] for line in timed]
    assert what_counts(run_dir) == what_counts(trained), "it changes nothing else"


def test_without_it_says_what_to_install_before_it_computes(
    toy: Toy, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as where it is not installed
    ended = toy.run(STAGE, tmp_path / "run", "--set", f"cache.roots=[{cached}]", *WANTED)
    assert ended.code == 5
    assert 'pip install "sad-pipeline[tensorboard]"' in ended.stderr
    assert not (tmp_path / "run" / "student").exists()


def test_is_not_written_unless_asked_for(trained: Path) -> None:
    assert not [name for name in tree(trained / "student") if name.startswith("tensorboard")]
