"""Stages whose time budget is over before there is anything that a later start need not do again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.models import planning
from pipeline.runs import RunDirectory
from stages import prepare_teacher
from tests.stages.clock import Clock, hours, session
from tests.stages.refusals import refuse
from tests.stages.test_demo import demo
from tests.stages.toys import Toy, status, tree


def test_a_budget_under_the_planning_pauses_once_and_then_is_an_error(toy: Toy, tmp_path: Path, clock: Clock) -> None:
    """What the first start downloads may be there for the second one; after that all starts are alike."""
    run_dir = tmp_path / "run"
    clock.takes(300, planning, "prepare_sequences")
    ended = toy.ran("cache-teacher", run_dir, *hours(200))
    assert "paused before there was a plan: the time budget is spent: 3 min 20 s" in ended.stderr
    before = tree(run_dir)
    for _ in range(2):
        clock.now = 0
        ended = toy.run("cache-teacher", run_dir, *hours(200), "--paused-exit-code", "75")
        refuse(
            ended, 2, "session.time_budget_hours: 3 min 20 s are allowed from the start of this command, and",
            "tokenising", "--time-budget", "data.max_tokens",
        )  # fmt: skip
        assert tree(run_dir) == before
    clock.now = 0
    toy.ran("cache-teacher", run_dir, *hours(400))
    assert status(run_dir)["state"] == "complete"


def test_a_session_under_the_planning_is_an_error_at_once(toy: Toy, tmp_path: Path, clock: Clock) -> None:
    """The next one begins in an empty folder, and knows of no earlier one; it may have more time where this one began
    late in it."""
    clock.takes(300, planning, "prepare_sequences")
    ended = toy.ran("cache-teacher", tmp_path / "late", *session(60, 260))
    assert "paused before there was a plan: the time budget is spent" in ended.stderr
    clock.now = 0
    ended = toy.run("cache-teacher", tmp_path / "early", *session(5, 205))
    refuse(ended, 2, "3 min 25 s are allowed from the start of this session", "data.max_tokens", "--time-budget")
    assert not (tmp_path / "early" / "cache" / "plan.json").exists()


@pytest.mark.parametrize(("state", "waits_for"), [("paused", "room"), ("running", None), ("failed", None)])
def test_an_earlier_start_that_the_budget_did_not_end_is_not_counted(
    state: Any, waits_for: Any, toy: Toy, tmp_path: Path, clock: Clock
) -> None:
    run = RunDirectory(tmp_path / "run")
    run.write_status("cache-teacher", state, waits_for=waits_for)
    clock.takes(300, planning, "prepare_sequences")
    toy.ran("cache-teacher", run.root, *hours(200))


def test_a_budget_under_the_making_of_a_teacher_is_an_error_too(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clock.takes(300, prepare_teacher, "train_tokenizer")
    ended = demo(*hours(200))
    assert (ended.code, "paused before the training began: the time budget is spent" in ended.stderr) == (0, True)
    clock.now = 0
    refuse(demo(*hours(200)), 2, "3 min 20 s are allowed", "tokenising", "--time-budget", "data.max_documents")
    clock.now = 0
    refuse(demo("--run-dir", "other", *session(5, 205)), 2, "from the start of this session", "--time-budget")
