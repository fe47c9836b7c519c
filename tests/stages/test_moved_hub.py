"""What is uploaded between two sessions changes nothing: a run keeps to the commits it began with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.cache import TeacherCache
from pipeline.cache.plan import Plan
from pipeline.doctor.asked import look_at_config
from pipeline.doctor.hub import Hub
from pipeline.evaluation.references import teacher_at_hand
from pipeline.models.cache_identity import planned_teacher, refuse_other_cache
from pipeline.models.planning import load_teacher
from pipeline.models.settings import TeacherSettings
from pipeline.runs import RunDirectory
from stages.config import load_run_config
from tests import tiny
from tests.data.builders import write_lines
from tests.stages.hub import MovingHub
from tests.stages.toys import Toy, copy, tree
from tests.stages.trainings import STAGE, checkpoint, metrics

TEXT, TEACHER, STUDENT = "some-body/some-text", "some-body/some-teacher", "some-body/some-student"
HUB_TEXT = ("--set", "data.source=hub", "--set", f"data.dataset={TEXT}")
HUB_TEACHER = ("--set", f"teacher.model={TEACHER}")
HUB_STUDENT = ("--set", "student.config=null", "--set", f"student.model={STUDENT}")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MovingHub:
    """With nothing on it yet."""
    hub = MovingHub(tmp_path)
    hub.stand_in(monkeypatch)
    return hub


@pytest.fixture(scope="module")
def of_hub(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MovingHub, Path]]:
    """A finished cache of a teacher on the hub; the teacher there has been trained further since."""
    folder = tmp_path_factory.mktemp("of-hub")
    hub = MovingHub(folder)
    with pytest.MonkeyPatch.context() as patch:
        hub.stand_in(patch)
        hub.push(TEACHER, toy.teacher)
        toy.ran("cache-teacher", folder / "run", *HUB_TEACHER)
        hub.push(TEACHER, tiny.save_model(folder / "further", seed=1))
        yield hub, folder / "run"


def unseal(run_dir: Path, index: int = 3) -> None:
    for path in run_dir.glob(f"cache/shards/{index:05d}.*"):
        path.unlink()


def plan_of(run_dir: Path) -> Plan:
    return TeacherCache.open(run_dir).plan


# ------------------------------------------------------------------ a data set


def test_an_edited_page_of_a_data_set_is_no_other_data_set(toy: Toy, hub: MovingHub, tmp_path: Path) -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted(toy.texts.iterdir())]
    rows = tmp_path / "rows"
    rows.mkdir()
    write_lines(rows / "train.jsonl", [{"text": text} for text in texts])
    first, run_dir = hub.push(TEXT, rows), tmp_path / "run"
    toy.ran("cache-teacher", run_dir, *HUB_TEXT)
    before = tree(run_dir / "cache")
    (rows / "README.md").write_text("A better page.")
    second = hub.push(TEXT, rows)
    hub.begin_on_another_machine()

    assert "compared" not in toy.ran("cache-teacher", run_dir, *HUB_TEXT).stderr
    assert hub.asked == []
    unseal(run_dir)
    (run_dir / "cache" / "sequences.shard").unlink()
    toy.ran("cache-teacher", run_dir, *HUB_TEXT)
    assert {revision for _, revision in hub.asked} == {first}
    assert tree(run_dir / "cache") == before

    for revision, code in ((first, 0), (second, 3)):
        ended = toy.run("cache-teacher", run_dir, *HUB_TEXT, "--set", f"data.revision={revision}")
        assert ended.code == code, ended.stderr
    assert f"source.revision: {first!r} -> {second!r}" in ended.stderr


# ------------------------------------------------------------------ a teacher


def test_a_teacher_is_scored_to_the_end_at_the_commit_it_began_with(
    toy: Toy, of_hub: tuple[MovingHub, Path], tmp_path: Path
) -> None:
    (hub, made), run_dir = of_hub, tmp_path / "run"
    named = plan_of(made).identity["teacher"]["hub"]
    assert named["model"] == TEACHER
    before = tree(copy(made, run_dir) / "cache")
    unseal(run_dir)
    hub.begin_on_another_machine()
    toy.ran("cache-teacher", run_dir, *HUB_TEACHER)
    assert {revision for _, revision in hub.asked} == {named["revision"]}
    assert tree(run_dir / "cache") == before


def test_a_finished_cache_downloads_no_teacher(toy: Toy, of_hub: tuple[MovingHub, Path], tmp_path: Path) -> None:
    hub, made = of_hub
    hub.begin_on_another_machine()
    assert "teacher cannot" not in toy.ran("cache-teacher", made, *HUB_TEACHER).stderr
    assert hub.asked == []
    options = ("--set", f"teacher.model={tiny.save_model(tmp_path / 'other', seed=1)}")
    ended = toy.run("cache-teacher", made, *options)
    assert (ended.code, "teacher.files.model.safetensors" in ended.stderr) == (3, True)


def test_settings_are_refused_before_a_teacher_is_downloaded(
    toy: Toy, of_hub: tuple[MovingHub, Path], tmp_path: Path
) -> None:
    (hub, made), run_dir = of_hub, tmp_path / "run"
    unseal(copy(made, run_dir))
    hub.begin_on_another_machine()
    ended = toy.run("cache-teacher", run_dir, *HUB_TEACHER, "--set", "cache.seed=1")
    assert (ended.code, hub.asked) == (3, [])


def test_a_revision_that_is_set_is_compared_by_its_weights(
    toy: Toy, of_hub: tuple[MovingHub, Path], tmp_path: Path
) -> None:
    (hub, made), run_dir = of_hub, tmp_path / "run"
    unseal(copy(made, run_dir))
    moved = hub.push(TEACHER, tiny.save_model(tmp_path / "further", seed=2))
    ended = toy.run("cache-teacher", run_dir, *HUB_TEACHER, "--set", f"teacher.revision={moved}")
    assert (ended.code, "teacher.files.model.safetensors" in ended.stderr) == (3, True)
    same = hub.push(TEACHER, toy.teacher)
    toy.ran("cache-teacher", run_dir, *HUB_TEACHER, "--set", f"teacher.revision={same}")


def test_whoever_loads_the_teacher_later_loads_that_commit(
    toy: Toy, of_hub: tuple[MovingHub, Path], tmp_path: Path
) -> None:
    """eval, estimate and doctor; and a plan of a folder, or of an earlier version, names no commit."""
    (hub, made), settings = of_hub, TeacherSettings(model=TEACHER)
    plan = plan_of(made)
    commit = plan.identity["teacher"]["hub"]["revision"]
    hub.begin_on_another_machine()
    teacher_at_hand(plan, settings)
    load_teacher(plan, settings)
    assert {revision for _, revision in hub.asked} == {commit}

    config, run_dir = load_run_config(str(toy.config)), copy(made, tmp_path / "run")
    unseal(run_dir)
    hub.begin_on_another_machine()
    sections = (config.data, settings, config.cache, config.student, config.train)
    answering = Hub()
    answering._asked, answering.problem = True, ""
    asked = look_at_config(*sections, RunDirectory(run_dir), answering)
    assert asked.teacher is not None
    assert asked.teacher.size is not None
    assert {revision for _, revision in hub.asked} == {commit}

    other = TeacherSettings(model="some-body/copy-of-it")
    for given in (other, TeacherSettings(model=TEACHER, revision="v1"), TeacherSettings(model=str(toy.teacher))):
        assert planned_teacher(plan, given) == given
    weights = {key: value for key, value in plan.identity["teacher"].items() if key != "hub"}
    older = dataclasses.replace(plan, identity={**plan.identity, "teacher": weights})
    assert planned_teacher(older, settings) == settings
    refuse_other_cache(plan, made, config.data, config.teacher, config.cache)
    refuse_other_cache(older, made, config.data, config.teacher, config.cache)


def test_the_plan_of_a_folder_names_no_commit(cached: Path) -> None:
    assert set(plan_of(cached).identity["teacher"]) == {"config_sha256", "files"}


# ------------------------------------------------------------------ a student


def test_a_training_goes_on_with_the_student_it_began_with(
    toy: Toy, cached: Path, hub: MovingHub, tmp_path: Path
) -> None:
    """From a read-only root, as in a chain of sessions, and in its own folder."""
    student = tiny.save_model(tmp_path / "student", seed=1)
    first, options = hub.push(STUDENT, student), ("--set", f"cache.roots=[{cached}]", *HUB_STUDENT)
    toy.ran(STAGE, tmp_path / "one", *options)
    state = json.loads((checkpoint(tmp_path / "one", 12) / "state.json").read_text())
    assert state["student_hub"] == {"model": STUDENT, "revision": first}
    earlier = copy(tmp_path / "one", tmp_path / "earlier")
    for path in checkpoint(earlier, 12).iterdir():
        path.unlink()
    config: dict[str, Any] = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(json.dumps(config | {"use_cache": False}))
    second = hub.push(STUDENT, student)

    for run_dir, more in ((tmp_path / "two", ("--set", f"train.roots=[{earlier}]")), (earlier, ())):
        hub.begin_on_another_machine()
        ended = toy.ran(STAGE, run_dir, *options, *more)
        assert "continuing after step 8" in ended.stderr
        assert {revision for _, revision in hub.asked} == {first}
        assert metrics(run_dir) == metrics(tmp_path / "one")
    estimated = toy.ran("estimate", earlier, *options, "--json")
    assert json.loads(estimated.stdout)["training"]["steps_done"] == 12
    toy.ran("eval", earlier, *options)
    assert {revision for _, revision in hub.asked} == {first}

    ended = toy.run(STAGE, earlier, *options, "--set", f"student.revision={second}")
    assert (ended.code, "student.weights.config_sha256" in ended.stderr) == (3, True)
