"""Stages with a time budget and under signals, through the real commands: when they pause, how soon, what is lost."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from pipeline.cache import Plan
from pipeline.cache.writer import CacheWriter
from pipeline.distill.journal import Journal
from pipeline.distill.learner import Learner
from pipeline.models import Teacher
from pipeline.models.capture_workers import CaptureWorkers
from pipeline.models.causal import CausalModel
from stages import cache_teacher
from tests.stages.clock import HOUR, Clock, hours, session
from tests.stages.processes import wait_for
from tests.stages.refusals import refuse
from tests.stages.toys import Toy, copy, stamps, start, status, temporaries, tree, wait
from tests.stages.trainings import checkpoint, train, what_counts

CAPTURE_SECONDS, TRAINING_SECONDS = 5.0, 10.0


# ------------------------------------------------------------------ the budget


def test_capture_pauses_while_another_shard_would_not_be_done(
    toy: Toy, cached: Path, tmp_path: Path, clock: Clock
) -> None:
    """Shards of 60 s: after the third of a budget of 200 s, 20 are left, and another one needs 72 with its margin."""
    clock.takes(60, CacheWriter, "write")
    run_dir, counts = tmp_path / "run", []
    for _ in range(3):
        clock.now = 0
        ended = toy.ran("cache-teacher", run_dir, *hours(200))
        counts.append(status(run_dir)["progress"]["shards"])
        reason = "of 3 min 20 s 20 s are left, and the next piece of work with its save may take 1 min 12 s"
        assert (reason in ended.stderr) == (counts[-1] < 9)
    assert counts == [3, 6, 9]
    assert tree(run_dir / "cache") == tree(cached / "cache")


def test_training_pauses_while_another_step_and_a_save_would_not_be_done(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path, clock: Clock
) -> None:
    """Steps of 10 s and saves of 5 s: after step 3 of each start, 10 of 45 s are left, and both need 18."""
    clock.takes(10, Learner, "learn")
    clock.takes(5, Journal, "save")
    run_dir, steps = tmp_path / "run", []
    for _ in range(4):
        clock.now = 0
        ended = train(toy, cached, run_dir, "--set", "train.checkpoint_every=2", *hours(45))
        steps.append(status(run_dir)["progress"]["steps"])
    assert steps == [3, 6, 9, 12]
    assert "12 steps done" in ended.stderr
    assert what_counts(run_dir) == what_counts(trained)


def test_a_validation_is_part_of_the_slowest_step(toy: Toy, cached: Path, tmp_path: Path, clock: Clock) -> None:
    """Step 6 validates for 100 s: from then on room for such a step is kept, though no other took as long."""
    clock.takes(1, Learner, "learn")
    clock.takes(100, Journal, "log_validation")
    train(toy, cached, tmp_path / "run", "--set", "train.evaluate_every=6", *hours(220))
    assert status(tmp_path / "run")["progress"]["steps"] == 6
    assert "of 3 min 40 s 1 min 54 s are left" in status(tmp_path / "run")["message"]


def unfinished(cached: Path, run_dir: Path, num_missing: int = 2) -> Path:
    """A run whose cache lacks some shards."""
    copy(cached, run_dir)
    for number in range(num_missing):
        for kind in ("seal.json", "shard"):
            (run_dir / "cache" / "shards" / f"0000{number}.{kind}").unlink()
    return run_dir


def test_a_budget_under_one_shard_is_an_error_and_no_pause(
    toy: Toy, cached: Path, tmp_path: Path, clock: Clock
) -> None:
    """Batches of 60 s, five a shard: it would be given up at every start, and a retry loop would never end."""
    clock.takes(60, Teacher, "score")
    run_dir = unfinished(cached, tmp_path / "run")
    before = tree(run_dir)
    for _ in range(2):
        clock.now = 0
        ended = toy.run("cache-teacher", run_dir, *hours(200), "--paused-exit-code", "75")
        refuse(
            ended, 2, "session.time_budget_hours: 3 min 20 s are allowed from the start of this command", "one shard",
            "--time-budget", "cache.shard_positions", "--run-dir",
        )  # fmt: skip
        assert tree(run_dir) == before
    clock.now = 0
    toy.ran("cache-teacher", run_dir, *hours(400))
    assert status(run_dir)["progress"]["shards"] == 8, "one in each start, then"
    clock.now = 0
    ended = toy.ran("cache-teacher", run_dir, *session(60, 260))
    assert "paused with 8 of 9 shards sealed" in ended.stderr, "the next session may have more time for it"
    clock.now = 0
    ended = toy.run("cache-teacher", run_dir, *session(5, 205))
    refuse(ended, 2, "3 min 25 s are allowed from the start of this session", "one shard", "--time-budget")


def test_a_budget_that_loading_the_teacher_takes_is_an_error_too(
    toy: Toy, cached: Path, tmp_path: Path, clock: Clock
) -> None:
    run_dir = unfinished(cached, tmp_path / "run")
    clock.takes(300, CausalModel, "__init__")
    refuse(toy.run("cache-teacher", run_dir, *hours(200)), 2, "loading the teacher", "--time-budget")


def test_a_start_that_made_the_plan_has_got_on(toy: Toy, tmp_path: Path, clock: Clock) -> None:
    clock.takes(300, Plan, "save")
    ended = toy.ran("cache-teacher", tmp_path / "run", *hours(200))
    assert "paused with 0 of 9 shards sealed" in ended.stderr
    clock.now = 300
    refuse(toy.run("cache-teacher", tmp_path / "run", *hours(200)), 2, "one shard")


def test_a_budget_under_one_shard_of_several_teachers_is_an_error_too(
    toy: Toy, cached: Path, tmp_path: Path, clock: Clock
) -> None:
    """The first process looks at the time while the others score: 60 s pass between two looks."""
    clock.takes(60, CaptureWorkers, "_show")
    run_dir = unfinished(cached, tmp_path / "run")
    refuse(toy.run("cache-teacher", run_dir, *hours(100), "--workers", "2"), 2, "one shard", "cache.shard_positions")
    assert temporaries(run_dir) == []
    toy.ran("cache-teacher", run_dir)
    assert tree(run_dir / "cache") == tree(cached / "cache")


# ------------------------------------------------------------------ the session


def test_commands_of_one_session_share_its_time(toy: Toy, cached: Path, tmp_path: Path, clock: Clock) -> None:
    """Captured for 6 of 10 hours, trained from then on: 4 hours are left, not 10."""
    clock.takes(HOUR, Learner, "learn")
    run_dir = copy(cached, tmp_path / "run")
    toy.ran("train-student", run_dir, *session(6 * HOUR, 10 * HOUR))
    assert status(run_dir)["progress"]["steps"] == 3, "a fourth would have ended at 10 hours, without its margin"
    clock.now = 0
    toy.ran("train-student", run_dir, *session(0, 10 * HOUR))
    assert status(run_dir)["state"] == "complete"


@pytest.mark.parametrize("stage", ["cache-teacher", "train-student"])
def test_a_session_that_is_over_begins_nothing(
    stage: str, toy: Toy, cached: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = copy(cached if stage == "cache-teacher" else trained, tmp_path / "run")
    if stage == "cache-teacher":
        for kind in ("seal.json", "shard"):
            (run_dir / "cache" / "shards" / f"00005.{kind}").unlink()
    else:
        (checkpoint(run_dir, 12) / "COMMIT.json").unlink()
    kept = "cache" if stage == "cache-teacher" else "student"
    before, times = tree(run_dir / kept), stamps(run_dir / kept)
    monkeypatch.setattr(cache_teacher, "load_teacher", lambda *arguments: 1 / 0)
    monkeypatch.setattr(Learner, "learn", lambda *arguments: 1 / 0)
    monkeypatch.setenv("SAD_SESSION_START", f"{time.time() - 11 * HOUR - 5:.0f}")  # to the second
    roots = ["--set", f"cache.roots=[{cached}]"] if stage == "train-student" else []
    for budget in (["--set", "session.time_budget_hours=11"], hours(11 * HOUR + 1)):
        ended = toy.ran(stage, run_dir, *roots, *budget)
        left = status(run_dir)
        assert (left["state"], "the time budget is nearly spent: of 11 h 00 min 0 s are left" in ended.stderr) == (
            "paused",
            True,
        )
        assert left["progress"]["shards" if stage == "cache-teacher" else "steps"] == 8
        assert (tree(run_dir / kept), stamps(run_dir / kept)) == (before, times)


def test_a_session_that_is_over_makes_no_plan(toy: Toy, tmp_path: Path) -> None:
    ended = toy.ran("cache-teacher", tmp_path / "run", *session(2 * HOUR, HOUR))
    assert "paused before there was a plan: the time budget is nearly spent" in ended.stderr
    assert not (tmp_path / "run" / "cache").exists()


# ------------------------------------------------------------------ signals


def begin(toy: Toy, cached: Path, stage: str, run_dir: Path) -> BaseProcess:
    """A stage at work: shards are being scored, or steps learned."""
    options = ["--set", f"cache.roots=[{cached}]", "--set", "train.checkpoint_every=1"]
    options = options if stage == "train-student" else []
    process = start(toy.command(stage, run_dir, *options), run_dir.with_suffix(".log"))
    sign = "cache/shards/*.seal.json" if stage == "cache-teacher" else "student/checkpoints/*/COMMIT.json"
    wait_for(lambda: any(run_dir.glob(sign)))
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize(
    ("stage", "seconds"), [("cache-teacher", CAPTURE_SECONDS), ("train-student", TRAINING_SECONDS)]
)
def test_a_signal_pauses_within_seconds(
    stage: str, seconds: float, number: signal.Signals, toy: Toy, cached: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    process = begin(toy, cached, stage, run_dir)
    assert process.pid is not None
    os.kill(process.pid, number)
    sent = time.monotonic()
    assert wait(process) == 0
    assert time.monotonic() - sent < seconds
    left = status(run_dir)
    assert (left["state"], f"{number.name} was received" in left["message"]) == ("paused", True)
    assert temporaries(run_dir) == []


@pytest.mark.parametrize("stage", ["cache-teacher", "train-student"])
def test_a_second_signal_leaves_at_once_and_nothing_saved_is_lost(
    stage: str, toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    """The process cannot get to its pause: it is stopped while both signals arrive."""
    run_dir = tmp_path / "run"
    process = begin(toy, cached, stage, run_dir)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGCONT)
    assert wait(process) in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert status(run_dir)["state"] == "running", "it left without another word"
    if stage == "cache-teacher":
        toy.ran(stage, run_dir)
        assert tree(run_dir / "cache") == tree(cached / "cache")
    else:
        train(toy, cached, run_dir)
        assert what_counts(run_dir) == what_counts(trained)
    assert temporaries(run_dir) == []
