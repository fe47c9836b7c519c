"""The demo at toy size: every stage in turn, then again, when there is little left to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.distill.learner import Learner
from pipeline.output_limit import folder_bytes
from pipeline.pause import PauseRequest
from tests import tiny
from tests.stages.refusals import refuse
from tests.stages.toys import Ended, run, stamps, tree

TINY = "{model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}"
SETTINGS = [
    "data.max_documents=12",
    "data.validation_fraction=0.3",
    "data.sequence_length=64",
    "data.max_tokens=4000",
    "cache.head_size=16",
    "cache.shard_positions=1000",
    f"student.config={TINY}",
    f"demo.teacher={TINY}",
    "demo.vocab_size=300",
    "demo.teacher_steps=4",
    "demo.teacher_batch_size=4",
    "train.steps=4",
    "train.batch_size=2",
    "train.warmup_steps=1",
    "train.evaluate_every=2",
    "train.validation_sequences=4",
    "eval.max_sequences=4",
    "eval.sample_tokens=2",
]


def demo(*more: str) -> Ended:
    """Run the demo at toy size, with the bundled config and in the folder it chooses."""
    return run("demo", *(word for setting in SETTINGS for word in ("--set", setting)), *more)


@pytest.mark.slow
def test_the_demo_from_nothing_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = demo()
    assert ended.code == 0, ended.stderr
    root = tmp_path / "artifacts" / "demo"
    page = root / "report" / "report.html"
    assert "Distillation gained" in ended.stderr
    assert "labels only" in page.read_text(encoding="utf-8")
    rows = json.loads((root / "eval" / "eval.json").read_text())["rows"]
    exported = [row["kind"] for row in rows if row["name"] == "student, as exported"]  # where the last is not the best
    assert [row["kind"] for row in rows] == ["teacher", "initial", "student", *exported, "baseline"]
    assert all(row["kl_exact_nats"] is not None for row in rows[1:])
    assert sorted(path.name for path in root.iterdir() if not path.name.startswith(".")) == [
        "cache",
        "config.yaml",
        "eval",
        "labels-only",
        "report",
        "status.json",
        "student",
        "teacher",
    ]

    kept = [root / "teacher", root / "cache", root / "student", root / "labels-only" / "student"]
    before = [(tree(folder), stamps(folder)) for folder in kept]
    page.unlink()
    ended = demo()
    assert ended.code == 0, ended.stderr
    assert "is kept" in ended.stderr
    assert ended.stderr.count("nothing left to do") == 2
    assert [(tree(folder), stamps(folder)) for folder in kept] == before
    assert page.is_file()


def pause_between_units(patches: pytest.MonkeyPatch) -> None:
    """A pause is due after every unit of work, and never inside one."""
    patches.setattr(PauseRequest, "reason", lambda self: "it was time")


@pytest.mark.slow
def test_a_demo_stopped_at_every_step_of_its_teacher_makes_the_same_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patches:
        pause_between_units(patches)
        for _ in range(3):
            assert demo("--run-dir", "stopped", "--paused-exit-code", "75").code == 75
        assert not (tmp_path / "stopped" / "teacher").exists()
        assert demo("--run-dir", "stopped", "--paused-exit-code", "75").code == 75
    assert (tmp_path / "stopped" / "teacher").is_dir()
    assert demo("--run-dir", "straight").code == 0
    assert tree(tmp_path / "stopped" / "teacher") == tree(tmp_path / "straight" / "teacher")


@pytest.mark.slow
def test_a_demo_short_of_room_pauses_in_its_teachers_training_and_makes_the_same_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One checkpoint of the teacher fits into 380 kB, and no second one; two into 440, but no model beside them."""
    monkeypatch.chdir(tmp_path)
    every = ["--set", "train.checkpoint_every=2", "--run-dir", "short", "--paused-exit-code", "75"]
    refused = demo(*every, "--max-output-gb", "1e-4")
    assert refused.code == 2
    assert "a checkpoint of this training with its best weights alone needs up to" in refused.stderr
    for kilobytes, steps in ((380, 2), (380, 2), (440, 4), (440, 4)):
        ended = demo(*every, "--max-output-gb", f"{kilobytes / 1e6}")
        assert ended.code == 75, ended.stderr
        assert f"paused after step {steps} of 4: the limit of session.max_output_gb is reached" in ended.stderr
        assert folder_bytes(tmp_path / "short") <= kilobytes * 1000
        assert not (tmp_path / "short" / "teacher").exists()
    assert demo("--run-dir", "short").code == 0
    assert demo("--run-dir", "straight").code == 0
    assert tree(tmp_path / "short" / "teacher") == tree(tmp_path / "straight" / "teacher")


@pytest.mark.slow
def test_a_demo_killed_in_its_teachers_training_goes_on_from_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    every = ["--set", "train.checkpoint_every=2"]
    real = Learner.learn

    def dies(self: Learner, step: int, *args: Any, **kwargs: Any) -> Any:
        if step == 3:
            raise MemoryError("killed")
        return real(self, step, *args, **kwargs)

    with monkeypatch.context() as patches:
        patches.setattr(Learner, "learn", dies)
        with pytest.raises(MemoryError):
            demo("--run-dir", "killed", *every)
    with monkeypatch.context() as patches:
        pause_between_units(patches)
        ended = demo("--run-dir", "killed", "--paused-exit-code", "75")
        assert "continuing after step 2" in ended.stderr
    assert demo("--run-dir", "killed").code == 0
    assert demo("--run-dir", "straight").code == 0
    assert tree(tmp_path / "killed" / "teacher") == tree(tmp_path / "straight" / "teacher")


@pytest.mark.slow
def test_the_demo_replaces_nobodys_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = tiny.save_model(tmp_path / "mine")
    before = tree(mine)
    pause_between_units(monkeypatch)
    ended = demo("--set", f"teacher.model={mine}", "--paused-exit-code", "75")
    assert ended.code == 75, ended.stderr
    assert "paused after step 1 of" in ended.stderr
    assert "is left alone" in ended.stderr
    assert tree(mine) == before
    assert not (tmp_path / "artifacts" / "demo" / "teacher").exists()


def test_the_demo_needs_its_section(tmp_path: Path) -> None:
    ended = run("demo", "--run-dir", str(tmp_path / "run"), "--set", "demo=null")
    assert ended.code == 2
    assert "no demo section" in ended.stderr


def test_a_wrong_key_of_the_teacher_is_refused_before_any_text_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = demo("--set", "demo.teacher.hidden_sizes=3")
    refuse(ended, 2, "demo.teacher: llama has no key 'hidden_sizes'; did you mean 'hidden_size'?")
    assert "tokenising" not in ended.stderr
    refuse(demo("--set", "demo.teacher={hidden_size: 64}"), 2, "demo.teacher needs model_type, such as llama")


def test_a_teacher_half_made_by_another_recipe_is_told_with_what_to_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo has no --fork-from, and a teacher none of whose steps are of this recipe is no use to it."""
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patches:
        pause_between_units(patches)
        assert "paused after step 1 of 4" in demo().stderr
    half_made = tmp_path / "artifacts" / "demo" / "teacher-training"
    assert half_made.is_dir()
    ended = demo("--set", "demo.teacher_steps=6")
    refuse(ended, 3, "train.steps: 4 -> 6", "or remove artifacts/demo/teacher-training: the teacher is then made anew")
    assert "--fork-from" not in ended.stderr
    shutil.rmtree(half_made)
    with monkeypatch.context() as patches:
        pause_between_units(patches)
        assert "paused after step 1 of 6" in demo("--set", "demo.teacher_steps=6").stderr
