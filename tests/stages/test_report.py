"""report on runs that the real stages left, through the command people type."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path

import pytest

from pipeline.evaluation.study.results import RESULTS_NAME, save_results
from pipeline.runs import RunDirectory
from stages import report
from tests.evaluation.studies import real_study
from tests.stages.refusals import refuse
from tests.stages.toys import Toy, copy, flip_a_bit, rows_of, run, status, tree
from tests.stages.trainings import checkpoint

PAGE = "report/report.html"


@pytest.fixture(scope="module")
def evaluated(toy: Toy, cached: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that reached eval, its cache in another folder."""
    run_dir = copy(trained, tmp_path_factory.mktemp("evaluated") / "run")
    baselines = f"eval.baselines={{the teacher itself: {toy.teacher}}}"
    toy.ran("eval", run_dir, "--set", f"cache.roots=[{cached}]", "--set", baselines)
    return run_dir


def reported(run_dir: Path, *more: str) -> str:
    ended = run("report", str(run_dir), *more)
    assert ended.code == 0, ended.stderr
    assert ended.stdout == ""
    assert str(run_dir / PAGE) in ended.stderr
    return (run_dir / PAGE).read_text(encoding="utf-8")


def test_the_page_tells_the_figures_of_eval(evaluated: Path) -> None:
    page = reported(evaluated)
    for row in json.loads((evaluated / "eval" / "eval.json").read_text())["rows"]:
        assert f"{row['cross_entropy_nats']:.4f}" in page
        assert row["name"] in page
    for anchor in ("models", "training", "cache", "data", "samples", "reproduce"):
        assert f'<section id="{anchor}">' in page
    assert "Not in this report yet" not in page
    assert "sequence_length: 32" in page


def test_it_changes_nothing_else_and_is_the_same_again(evaluated: Path) -> None:
    reported(evaluated)
    before = tree(evaluated)
    page = reported(evaluated)
    assert tree(evaluated) == before
    assert report.run(RunDirectory(evaluated)).read_text(encoding="utf-8") == page


def test_another_training_is_drawn_beside(evaluated: Path, trained: Path) -> None:
    page = reported(evaluated, "--compare", f"straight & simple={trained}")
    assert "straight &amp; simple" in page
    assert "straight & simple" not in page


def test_a_cache_alone_is_a_report_too(cached: Path, tmp_path: Path) -> None:
    page = reported(copy(cached, tmp_path / "run"))
    assert "shards sealed" in page
    assert "No student was trained." in page
    assert '<section id="data">' in page
    assert '<section id="training">' not in page


def test_a_run_that_has_only_begun_says_what_to_run(toy: Toy, tmp_path: Path) -> None:
    shutil.copy(toy.config, tmp_path / "config.yaml")
    page = reported(tmp_path)
    assert "There is no teacher cache." in page
    assert "sad-pipeline cache-teacher" in page


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ((), "found nothing. Name the run directory"),
        (("README.md", "pipeline", "stages"), "found README.md, pipeline, stages. Name"),
        (tuple("abcdefg"), "found a, b, c, d, e and 2 more. Name"),
    ],
)
def test_a_folder_that_holds_no_run_is_refused(names: tuple[str, ...], found: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    refuse(
        run("report", str(tmp_path)),
        6,
        f"{tmp_path}: no run here; expected config.yaml, cache/, student/, eval/ or quality/, {found}",
        "sad-pipeline cache-teacher -c CONFIG",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize("name", ["cache", "student", "eval", "quality"])
def test_what_any_stage_left_is_a_run(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    reported(tmp_path)


def test_a_study_alone_is_a_report_too(tmp_path: Path) -> None:
    run_dir = RunDirectory(tmp_path / "run")
    save_results(run_dir.quality / RESULTS_NAME, [real_study()], {})
    page = html.unescape(reported(run_dir.root))
    assert '<section id="study">' in page
    for words in ("98%", "62.6%", "not told apart", "no cache, no student and no evaluation of its own"):
        assert words in page
    assert f"sad-pipeline bench quality --run-dir {run_dir.root}" in page
    assert "config.yaml" not in page  # there is none to name
    assert "Nothing" not in page


def test_a_study_beside_a_run_is_a_part_of_its_report(evaluated: Path, tmp_path: Path) -> None:
    run_dir = RunDirectory(copy(evaluated, tmp_path / "run"))
    save_results(run_dir.quality / RESULTS_NAME, [real_study()], {})
    page = reported(run_dir.root)
    for anchor in ("models", "training", "cache", "data", "study", "reproduce"):
        assert f'<section id="{anchor}">' in page
    assert "Not in this report" not in page


def test_a_study_that_goes_on_is_told(tmp_path: Path) -> None:
    (tmp_path / "quality" / "v4096").mkdir(parents=True)
    (tmp_path / "quality" / "v4096" / "config.yaml").write_text("name: of-the-study\n")
    page = reported(tmp_path)
    assert "A study was begun, and has no figures yet." in page
    assert "Resolved configuration of the study, v4096" in page
    assert "name: of-the-study" in page
    assert '<section id="study">' not in page


def test_a_damaged_study_is_not_reported(tmp_path: Path) -> None:
    path = tmp_path / "quality" / RESULTS_NAME
    save_results(path, [real_study()], {})
    for content, words in (
        (path.read_text().replace('"learning_rate": 0.004', '"learning_rate": "fast"'), "expected a number above 0"),
        (path.read_text().replace('"format": 1', '"format": 0'), "expected study format 1, found 0"),
    ):
        path.write_text(content)
        ended = run("report", str(tmp_path))
        assert ended.code == 4
        told = " ".join(ended.stderr.split())
        assert words in told
        assert str(path) in told
        assert "Run `sad-pipeline bench quality` again as before" in told
        assert not (tmp_path / PAGE).exists()


def test_half_finished_and_outdated_figures_are_told(toy: Toy, cached: Path, tmp_path: Path) -> None:
    """A training is paused, evaluated as it stands, and finished: at each point the page says which is which."""
    run_dir, roots = tmp_path / "run", ("--set", f"cache.roots=[{cached}]")
    toy.ran("train-student", run_dir, *roots, "--time-budget", "1e-6")
    paused = status(run_dir)
    ended = toy.ran("eval", run_dir, *roots)
    assert "The student was measured at step 1 of 12" in ended.stderr
    left = status(run_dir)
    assert (left["stage"], left["state"]) == ("eval", "complete")
    assert left["next_command"] == paused["next_command"] is not None
    assert left["stages"]["train-student"] == paused["stages"]["train-student"]
    students = [row for row in rows_of(run_dir) if row["kind"] == "student"]
    assert [(row["step"], row["num_steps"]) for row in students] == [(1, 12), (1, 12)]
    page = reported(run_dir)
    assert "The training stands at step 1 of 12." in page
    assert "The last train-student is paused: paused after step 1 of 12" in page
    assert "The student was measured at step 1 of 12: its training is not finished." in page
    assert "The figures are of" not in page

    toy.ran("train-student", run_dir, *roots)
    assert status(run_dir)["next_command"] is None
    page = reported(run_dir)
    assert "The figures are of step 1, and the student is at step 12. Run <code>sad-pipeline eval" in page
    assert "The training stands at" not in page
    assert "is paused" not in page

    toy.ran("eval", run_dir, *roots)
    page = reported(run_dir)
    assert "Not in this report yet" not in page
    assert "its training is not finished" not in page
    (hashes,) = {row["training_hash"] for row in rows_of(run_dir) if row["kind"] == "student"}
    state = json.loads((checkpoint(run_dir, 12) / "state.json").read_text())
    assert hashes == state["training_hash"]


def test_figures_of_another_training_are_told(toy: Toy, cached: Path, evaluated: Path, tmp_path: Path) -> None:
    run_dir = copy(evaluated, tmp_path / "run")
    shutil.rmtree(run_dir / "student")
    toy.ran("train-student", run_dir, "--set", f"cache.roots=[{cached}]", "--set", "train.learning_rate=0.002")
    assert "The figures are of another training than the one that is in this run now." in reported(run_dir)


def test_steps_counted_in_epochs_are_known_too(toy: Toy, cached: Path, tmp_path: Path) -> None:
    options = ["--set", f"cache.roots=[{cached}]", "--set", "train.steps=null", "--set", "train.epochs=0.1"]
    run_dir = tmp_path / "run"
    toy.ran("train-student", run_dir, *options)
    num_steps = status(run_dir)["progress"]["of"]
    toy.ran("eval", run_dir, *options, "--set", "eval.max_sequences=2")
    students = [row for row in rows_of(run_dir) if row["kind"] == "student"]
    assert {(row["step"], row["num_steps"]) for row in students} == {(num_steps, num_steps)}
    assert any(row["folder"].endswith("student/model") for row in students)


def test_a_line_still_being_written_is_left_out(evaluated: Path, tmp_path: Path) -> None:
    page = reported(evaluated)
    busy = copy(evaluated, tmp_path / evaluated.name)
    with (busy / "student" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99999, "kind": "tr')
    assert reported(busy) == page.replace(str(evaluated), str(busy))


def test_a_damaged_plan_is_not_reported_as_a_figure(cached: Path, tmp_path: Path) -> None:
    run_dir = copy(cached, tmp_path / "run")
    flip_a_bit(run_dir / "cache" / "plan.json")
    ended = run("report", str(run_dir))
    assert ended.code == 4
    assert "plan.json" in ended.stderr
    assert not (run_dir / PAGE).exists()
