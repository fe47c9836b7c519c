"""train-student that stops early: where, with what, and that nothing goes on by itself after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.stages.toys import Toy, copy, run, stamps, status, tree
from tests.stages.trainings import STAGE, checkpoint, metrics, train

PATIENT = [
    word
    for setting in ("train.evaluate_every=2", "train.patience=2", "train.min_delta=5", "train.learning_rate=1e-2")
    for word in ("--set", setting)
]
"""An improvement of 5 nats is more than there is to have: the first evaluation is the last to count as one"""


@pytest.fixture(scope="module")
def stopped(toy: Toy, cached: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that stopped early, after step 6 of 12; read it, or copy it."""
    run_dir = tmp_path_factory.mktemp("stopped") / "run"
    train(toy, cached, run_dir, *PATIENT)
    return run_dir


def lines_of(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in metrics(run_dir) if line["kind"] == kind]


def test_stops_after_the_evaluations_it_waits_for_with_the_best_weights(stopped: Path) -> None:
    left = status(stopped)
    assert (left["state"], left["progress"]) == ("complete", {"steps": 6, "of": 6})
    assert left["message"].startswith(
        "stopped early after step 6 of 12, after 2 evaluations without improvement (train.patience)"
    )
    assert lines_of(stopped, "stopped") == [{"step": 6, "kind": "stopped", "evaluations": 2}]
    assert [line["step"] for line in lines_of(stopped, "train")] == list(range(1, 7))
    state = json.loads((checkpoint(stopped, 6) / "state.json").read_text())
    validated = lines_of(stopped, "validation")
    assert state["waiting"] == {"lowest_ce": min(v["ce"] for v in validated[:2]), "evaluations": 2, "stopped": True}
    best = min(validated, key=lambda line: line["ce"])
    assert state["best"] == {"step": best["step"], "weights": best["weights"], "ce": best["ce"]}
    assert f"{best['weights']} weights of step {best['step']} are in" in left["message"]
    assert f"of step {best['step']} of 6" in (stopped / "student" / "model" / "README.md").read_text()


def test_the_step_it_stops_at_is_logged_whatever_the_interval(
    toy: Toy, cached: Path, stopped: Path, tmp_path: Path
) -> None:
    train(toy, cached, tmp_path / "run", *PATIENT, "--set", "train.log_every=100")
    assert lines_of(tmp_path / "run", "train") == lines_of(stopped, "train")[-1:]
    [timed] = (tmp_path / "run" / "student" / "timings.jsonl").read_text().splitlines()
    assert json.loads(timed)["step"] == 6


def test_waiting_that_ends_with_the_last_step_stops_nothing(toy: Toy, cached: Path, tmp_path: Path) -> None:
    train(toy, cached, tmp_path / "run", *PATIENT, "--set", "train.steps=6")
    assert status(tmp_path / "run")["message"].startswith("6 steps done")
    assert lines_of(tmp_path / "run", "stopped") == []


def test_a_rerun_does_nothing(toy: Toy, cached: Path, stopped: Path) -> None:
    before, times = tree(stopped / "student"), stamps(stopped / "student")
    ended = train(toy, cached, stopped, *PATIENT)
    assert "nothing left to do: stopped early after step 6 of 12" in ended.stderr
    assert (tree(stopped / "student"), stamps(stopped / "student")) == (before, times)


def test_its_state_survives_a_stop_after_every_step(toy: Toy, cached: Path, stopped: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    for _ in range(6):
        train(toy, cached, run_dir, *PATIENT, "--time-budget", "1e-6")
    assert status(run_dir)["state"] == "complete"
    straight, resumed = (tree(path / "student") for path in (stopped, run_dir))
    for name in straight.keys() - {"timings.jsonl"}:
        if not name.startswith("checkpoints/step-00000004"):  # made at each pause, and not by the straight one
            assert straight[name] == resumed[name], name


def test_killed_between_the_last_checkpoint_and_the_export(
    toy: Toy, cached: Path, stopped: Path, tmp_path: Path
) -> None:
    run_dir = copy(stopped, tmp_path / "run")
    (run_dir / "student" / "model").rename(tmp_path / "model")
    ended = train(toy, cached, run_dir, *PATIENT)
    assert "continuing after step 6" in ended.stderr
    assert tree(run_dir / "student" / "model") == tree(tmp_path / "model")
    assert metrics(run_dir) == metrics(stopped)


def test_a_fork_waits_anew(toy: Toy, cached: Path, stopped: Path, tmp_path: Path) -> None:
    ended = train(toy, cached, tmp_path / "fork", *PATIENT, "--set", "train.patience=3", "--fork-from", str(stopped))
    assert "train.patience: 2 -> 3" in ended.stderr
    state = json.loads((checkpoint(tmp_path / "fork", 12) / "state.json").read_text())
    assert (state["waiting"]["evaluations"], state["waiting"]["stopped"]) == (2, False)
    assert "12 steps done" in ended.stderr

    # Nor does its log or its report say that it stopped where it was forked.
    assert lines_of(tmp_path / "fork", "stopped") == []
    assert [line["step"] for line in lines_of(tmp_path / "fork", "train")] == list(range(1, 13))
    assert run("report", str(tmp_path / "fork")).code == 0
    assert "it stopped early at" not in (tmp_path / "fork" / "report" / "report.html").read_text()


def test_report_and_eval_know_that_this_is_its_end(toy: Toy, cached: Path, stopped: Path, tmp_path: Path) -> None:
    run_dir = copy(stopped, tmp_path / "run")
    toy.ran("eval", run_dir, "--set", f"cache.roots=[{cached}]")
    assert run("report", str(run_dir)).code == 0
    page = (run_dir / "report" / "report.html").read_text()
    assert "step it stopped early at, 2 evaluations in vain" in page
    assert "The training stands at" not in page
    assert "its training is not finished" not in page
    rows = json.loads((run_dir / "eval" / "eval.json").read_text())["rows"]
    assert {row["num_steps"] for row in rows if row["kind"] == "student"} == {6}


def test_an_estimate_has_nothing_left_to_price(toy: Toy, cached: Path, stopped: Path, tmp_path: Path) -> None:
    run_dir = copy(stopped, tmp_path / "run")
    ended = toy.ran("estimate", run_dir, "--set", f"cache.roots=[{cached}]", *PATIENT, "--json")
    training = json.loads(ended.stdout)["training"]
    assert (training["num_steps"], training["steps_done"], training["hours"]) == (6, 6, 0.0)


def test_without_patience_it_goes_on_to_the_end(toy: Toy, cached: Path, tmp_path: Path) -> None:
    ended = train(toy, cached, tmp_path / "run", *PATIENT, "--set", "train.patience=null")
    assert ended.stderr.count("train.min_delta is 5 and does nothing without train.patience") == 1
    assert lines_of(tmp_path / "run", "stopped") == []
    state = json.loads((checkpoint(tmp_path / "run", 12) / "state.json").read_text())
    assert (state["waiting"]["evaluations"], state["waiting"]["stopped"]) == (5, False)


def test_patience_must_be_a_whole_number_from_one(toy: Toy, tmp_path: Path) -> None:
    ended = toy.run(STAGE, tmp_path / "run", "--set", "train.patience=0")
    assert ended.code == 2
    assert "train.patience" in ended.stderr
