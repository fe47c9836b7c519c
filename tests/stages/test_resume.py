"""train-student killed, stopped, damaged, moved: resumed, it gives the same bytes."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import files
from pipeline.distill.journal import Best, Journal
from pipeline.distill.learner import Learner
from tests.stages.refusals import refuse
from tests.stages.toys import (
    REPOSITORY,
    Toy,
    copy,
    flip_a_bit,
    stamps,
    start,
    status,
    temporaries,
    tree,
    wait,
)
from tests.stages.trainings import STAGE, checkpoint, train, what_counts

# ------------------------------------------------------------------ killed and resumed


def die_and_finish(toy: Toy, cached: Path, run_dir: Path, operation: int) -> bool:
    """Die before one operation and run again to the end; returns whether it died."""
    roots = ["--set", f"cache.roots=[{cached}]"]
    died = wait(start(toy.command(STAGE, run_dir, *roots), run_dir.with_suffix(".log"), operation))
    train(toy, cached, run_dir)
    assert temporaries(run_dir) == []
    return died == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("operation", [9, 40, 62, 120])
def test_killed_before_an_operation_and_resumed_gives_the_same_bytes(
    operation: int, toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    assert die_and_finish(toy, cached, tmp_path / "run", operation)
    assert what_counts(tmp_path / "run") == what_counts(trained)


@pytest.mark.slow
def test_killed_before_any_of_many_operations(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    expected, deaths = what_counts(trained), 0
    for operation in range(0, 400, 7):
        died = die_and_finish(toy, cached, tmp_path / f"run-{operation}", operation)
        assert what_counts(tmp_path / f"run-{operation}") == expected, operation
        deaths += died
        if not died:
            break
    assert deaths > 15


@pytest.mark.slow
def test_real_command_killed_at_three_moments(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "run" / "student" / "metrics.jsonl"
    arguments = toy.command(STAGE, run_dir, "--set", f"cache.roots=[{cached}]", "--set", "train.checkpoint_every=1")
    for lines in (2, 6, 11):
        process = subprocess.Popen(
            [sys.executable, "-m", "stages", *arguments], cwd=REPOSITORY, stderr=subprocess.DEVNULL
        )
        while not log.is_file() or len(log.read_text().splitlines()) < lines:
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    train(toy, cached, run_dir)
    assert what_counts(run_dir) == what_counts(trained)


def test_resumed_at_every_step_gives_the_same_bytes(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    """A budget that is always spent: each start does one step, saves, and pauses."""
    run_dir = tmp_path / "run"
    for step in range(1, 12):
        ended = train(toy, cached, run_dir, "--time-budget", "1e-6")
        assert f"paused after step {step} of 12: the time budget is nearly spent" in ended.stderr
        assert status(run_dir)["progress"] == {"steps": step, "of": 12}
    train(toy, cached, run_dir, "--time-budget", "1e-6")
    assert what_counts(run_dir) == what_counts(trained)


GPT2 = "student.config={model_type: gpt2, n_embd: 16, n_layer: 1, n_head: 2, n_positions: 64}"


@pytest.mark.parametrize(
    "settings",
    [
        ["train.accumulation=2", "train.gradient_checkpointing=true"],
        ["train.dtype=bfloat16"],
        ["train.dtype=float16"],
        ["train.ema_decay=0", "train.clip_norm=0"],
        ["train.objective=bucket", "train.temperature={start: 3, end: 2, shape: cosine}"],
        ["train.objective=subset", "train.ce_weight=0"],
        ["train.objective=reverse_kl"],
        ["train.objective=jsd", "train.temperature={start: 3, end: 2}"],
        ["train.objective=ranked", "train.temperature={start: 3, end: 2}"],
        ["train.data_order=easy_first", "train.difficulty=surprise", "train.curriculum_levels=3"],
        ["train.data_order=weighted", "train.hard_share=0.8"],
        ["train.rank_weight=0.5", "train.rank_weight_end=0", "train.weight_shape=cosine"],
        ["train.kd_weight_end=0", "train.ce_weight=0", "train.ce_weight_end=1"],
        ["train.balance=true", "train.rank_weight=0.3", "train.temperature={start: 3, end: 2}"],
        ["train.router=gap"],
        ["train.router=trust", "train.balance=true"],
        ["train.router=learned", "train.accumulation=2", "train.rank_weight=0.3"],
        ["train.router=learned", "train.dtype=float16", "train.balance=true"],
        ["student.config.tie_word_embeddings=true"],
        [GPT2],  # with dropout
    ],
    ids=lambda settings: settings[0].partition(": ")[0],
)
def test_every_kind_of_training_resumes_exactly(settings: list[str], toy: Toy, cached: Path, tmp_path: Path) -> None:
    options = [
        word for setting in ["train.steps=4", "train.evaluate_every=2", *settings] for word in ("--set", setting)
    ]
    train(toy, cached, tmp_path / "straight", *options)
    starts = 4 + ("data_order" in settings[0]) * 6  # of 7 shards, each start but the last measures one
    for _ in range(starts):
        train(toy, cached, tmp_path / "stopped", *options, "--time-budget", "1e-6")
    assert status(tmp_path / "stopped")["state"] == "complete"
    straight, stopped = (tree(tmp_path / name / "student") for name in ("straight", "stopped"))
    for name in straight.keys() - {"timings.jsonl"}:
        assert straight[name] == stopped[name], name


def test_a_signal_saves_and_pauses(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = toy.command(STAGE, run_dir, "--set", f"cache.roots=[{cached}]", "--paused-exit-code", "75")
    process = start(arguments, tmp_path / "log")
    while not (run_dir / "student" / "metrics.jsonl").is_file():
        time.sleep(0.001)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    assert wait(process) == 75
    left = status(run_dir)
    assert left["state"] == "paused"
    assert left["next_command"].startswith("sad-pipeline train-student -c ")
    assert checkpoint(run_dir, left["progress"]["steps"]).is_dir()
    train(toy, cached, run_dir)
    assert what_counts(run_dir) == what_counts(trained)


@pytest.mark.parametrize("damaged", ["weights.safetensors", "optimizer.safetensors", "state.json", "COMMIT.json"])
def test_a_damaged_newest_checkpoint_is_passed_over(
    damaged: str, toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    run_dir = copy(trained, tmp_path / "run")
    path = checkpoint(run_dir, 12) / damaged
    path.write_bytes(path.read_bytes()[:-40])
    (run_dir / "student" / "model" / "config.json").unlink()
    # One more checkpoint before the damaged one is reached: it must not be taken for a newer one.
    ended = train(toy, cached, run_dir, "--set", "train.checkpoint_every=3")
    assert "checkpoint passed over" in ended.stderr
    assert "continuing after step 8" in ended.stderr
    assert what_counts(run_dir) == what_counts(trained)


def test_one_that_cannot_be_read_for_a_moment_is_neither_passed_over_nor_removed(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = copy(trained, tmp_path / "run")
    newest = checkpoint(run_dir, 12)
    (run_dir / "student" / "model" / "config.json").unlink()
    real = files.digest_file

    def stale(path: Path) -> files.FileDigest:
        if path.parent == newest:
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(path)

    options = ["--set", f"cache.roots=[{cached}]", "--set", "train.checkpoint_every=1", "--time-budget", "1e-6"]
    before = tree(run_dir / "student")
    with monkeypatch.context() as patch:
        patch.setattr(files, "digest_file", stale)
        refuse(toy.run(STAGE, run_dir, *options), 7, str(newest), "cannot be read now", "Run the same command again")
        elsewhere = train(toy, cached, tmp_path / "new", "--set", f"train.roots=[{run_dir}]")
    assert tree(run_dir / "student") == before
    assert f"checkpoint passed over: {newest}" in elsewhere.stderr
    assert "continuing after step 8" in elsewhere.stderr
    assert "continuing after step 12" in train(toy, cached, run_dir).stderr
    assert what_counts(run_dir) == what_counts(trained)


def test_an_unfinished_checkpoint_beyond_is_no_obstacle(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    """Killed while step 8 was saved, then resumed with another (free) interval that never saves at step 8."""
    run_dir = copy(trained, tmp_path / "run")
    (checkpoint(run_dir, 12) / "COMMIT.json").unlink()
    for name in ("COMMIT.json", "state.json"):
        (checkpoint(run_dir, 8) / name).unlink()
    (run_dir / "student" / "model").rename(tmp_path / "model")
    train(toy, cached, run_dir, "--set", "train.checkpoint_every=5")
    assert what_counts(run_dir) == what_counts(trained)
    left = sorted(path.name for path in (run_dir / "student" / "checkpoints").glob("step-*"))
    assert left == ["step-00000010", "step-00000012"]


def test_lost_best_weights_are_chosen_anew(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    run_dir = copy(trained, tmp_path / "run")
    flip_a_bit(checkpoint(run_dir, 12, "best") / "weights.safetensors")
    (run_dir / "student" / "model").rename(tmp_path / "old-model")
    assert "the best weights so far are lost" in train(toy, cached, run_dir).stderr
    assert tree(run_dir / "student" / "model") == tree(tmp_path / "old-model")


def test_best_weights_that_go_bad_before_they_are_exported_are_told_with_what_to_do(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that is true: the same command chooses them anew."""
    run_dir = copy(trained, tmp_path / "run")
    (run_dir / "student" / "model").rename(tmp_path / "old-model")
    weights, real = checkpoint(run_dir, 12, "best") / "weights.safetensors", Journal.load_best

    def gone_bad(journal: Journal, learner: Learner) -> Best:
        flip_a_bit(weights)
        return real(journal, learner)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "load_best", gone_bad)
        ended = toy.run(STAGE, run_dir, "--set", f"cache.roots=[{cached}]")
    refuse(ended, 4, str(weights), "differs from COMMIT.json. Run the same command again: it chooses the best weights")
    assert "the best weights so far are lost" in train(toy, cached, run_dir).stderr
    assert tree(run_dir / "student" / "model") == tree(tmp_path / "old-model")


def test_resumes_from_a_read_only_root(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "mounted" / "deep" / "first", tmp_path / "second"
    copy(trained, first)
    (checkpoint(first, 12) / "COMMIT.json").unlink()
    before, times = tree(first), stamps(first)
    options = ["--set", f"train.roots=[{tmp_path / 'mounted'}]"]
    ended = train(toy, cached, second, *options)
    assert f"continuing after step 8, from {checkpoint(first, 8)}" in ended.stderr
    assert f"the best weights so far are those of step 6, in {checkpoint(first, 6, 'best')}" in ended.stderr
    assert (tree(first), stamps(first)) == (before, times)
    assert what_counts(second) == what_counts(trained)

    # Killed while the best weights were kept: half of them here are not taken for them.
    third = tmp_path / "third"
    half = checkpoint(third, 6, "best")
    half.mkdir(parents=True)
    (half / "weights.safetensors").write_bytes(b"half")
    train(toy, cached, third, *options)
    assert what_counts(third) == what_counts(trained)


def test_a_fork_that_is_started_again_goes_on_and_says_so(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    """The same command, as status.json gives it."""
    fork = ("--set", "train.steps=14", "--fork-from", str(checkpoint(trained, 8)))
    assert "forked after step 8" in train(toy, cached, tmp_path / "run", *fork).stderr
    shutil.rmtree(checkpoint(tmp_path / "run", 14))
    shutil.rmtree(tmp_path / "run" / "student" / "model")
    gone = (*fork[:-1], str(tmp_path / "no-longer-mounted"))
    again = " ".join(train(toy, cached, tmp_path / "run", *gone).stderr.split())
    assert "continuing after step 12" in again
    assert "is where a new training begins, and this one has begun" in again


def test_a_root_of_another_training_alone_is_named_and_not_continued(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    options = ["--set", f"train.roots=[{trained}]", "--set", "train.steps=2"]
    ended = train(toy, cached, tmp_path / "other", *options, "--set", "train.kd_weight=0.5")
    assert "train.roots hold no checkpoint of this training, so none is continued" in ended.stderr
    assert f"--fork-from {checkpoint(trained, 12)}. What differs:" in ended.stderr
    assert "  train.kd_weight: 0.9 -> 0.5\n" in ended.stderr
    assert "continuing after" not in ended.stderr
    ended = train(toy, cached, tmp_path / "same", "--set", f"train.roots=[{trained}]")
    assert "none is continued" not in ended.stderr


def test_a_damaged_checkpoint_to_fork_from_is_told_with_what_to_name_instead(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    origin = copy(checkpoint(trained, 12), tmp_path / "step-00000012")
    flip_a_bit(origin / "weights.safetensors")
    options = ["--set", f"cache.roots=[{cached}]", "--set", "train.learning_rate=0.002"]
    ended = toy.run("train-student", tmp_path / "run", "--fork-from", str(origin), *options)
    assert ended.code == 4, ended.stderr
    told = " ".join(ended.stderr.split())
    assert f"{origin}/weights.safetensors" in told
    assert "Give --fork-from another checkpoint, or the run's folder for its newest whole one" in told
