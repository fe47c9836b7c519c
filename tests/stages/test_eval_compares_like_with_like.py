"""eval measures the student of this cache against the teacher of this cache, and says which model it cannot use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from pipeline import files
from pipeline.evaluation import candidates
from tests import tiny
from tests.stages.refusals import refuse
from tests.stages.toys import Toy, copy, make_toy, rows_of, run, status, tree

QWEN2 = json.dumps({"model_type": "qwen2", **tiny.ARCHITECTURES["qwen2"]})


@pytest.fixture
def run_dir(cached: Path, trained: Path, tmp_path: Path) -> Path:
    """A run with its own cache and a finished student."""
    place = copy(trained, tmp_path / "run")
    copy(cached / "cache", place / "cache")
    return place


def untouched(run_dir: Path, ended: Any, code: int, *words: str) -> None:
    """Refused before anything was measured, and nothing changed."""
    refuse(ended, code, *words)
    assert "eval: student" not in ended.stderr
    assert not (run_dir / "eval").exists()


# ------------------------------------------------------------------ the teacher at hand


def test_another_model_is_no_teacher(toy: Toy, run_dir: Path, tmp_path: Path) -> None:
    other, before = tiny.save_model(tmp_path / "other", seed=1), status(run_dir)
    ended = toy.run("eval", run_dir, "--set", f"eval.teacher={other}")
    untouched(run_dir, ended, 3, f"eval.teacher {other}", "teacher.files.model.safetensors", "eval.baselines")
    assert status(run_dir) == before
    ended = toy.run("eval", run_dir, "--set", "eval.teacher=/nowhere")
    untouched(run_dir, ended, 2, "eval.teacher: /nowhere: no such folder")
    moved = copy(toy.teacher, tmp_path / "moved")
    toy.ran("eval", run_dir, "--set", f"eval.teacher={moved}", "--set", "eval.max_sequences=2")


# ------------------------------------------------------------------ the student


def test_a_student_of_another_cache_is_refused(toy: Toy, trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    toy.ran("cache-teacher", other, "--set", "cache.head_size=8", "--set", "data.max_documents=12")
    copy(trained / "student", other / "student")
    ended = toy.run("eval", other)
    untouched(other, ended, 3, "trained from another cache", "cache.roots", "--run-dir")


def test_a_student_of_this_cache_is_found_beside_a_newer_one_of_another(toy: Toy, run_dir: Path) -> None:
    checkpoints = run_dir / "student" / "checkpoints"
    newer = copy(checkpoints / "step-00000012", checkpoints / "step-00000099")
    state = files.read_json(newer / "state.json")
    state["step"], state["training"]["plan"] = 99, "0" * 64
    digest = files.write_json(newer / "state.json", state)
    commit = files.read_json(newer / "COMMIT.json")
    commit["state.json"] = {"size_bytes": digest.size_bytes, "xxh3_128": digest.xxh3_128}
    files.write_json(newer / "COMMIT.json", commit)
    toy.ran("eval", run_dir, "--set", "eval.max_sequences=2")
    assert {row["step"] for row in rows_of(run_dir) if row["kind"] == "student"} == {12}


def test_another_student_of_the_same_shape_is_refused(toy: Toy, run_dir: Path) -> None:
    ended = toy.run("eval", run_dir, "--set", "student.config.rope_theta=5000.0")
    untouched(run_dir, ended, 3, "student.config.rope_theta: '(absent)' -> 5000.0", "Put the student section back")


# ------------------------------------------------------------------ a tokenizer that transformers reads in two ways


@pytest.mark.slow
def test_a_student_whose_class_has_its_own_tokenizer_is_read_again(toy: Toy, cached: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    options = ["--set", f"cache.roots=[{cached}]", "--set", "train.steps=2", "--set", "eval.max_sequences=4"]
    fresh = [*options, "--set", f"student.config={QWEN2}"]
    ended = toy.ran("train-student", first, *fresh)
    if not transformers.__version__.startswith("5.5."):  # older ones read every tokenizer.json as it stands
        assert "AutoTokenizer does not give the teacher's ids" in ended.stderr, "otherwise this test shows nothing"
    model = first / "student" / "model"
    toy.ran("eval", first, *fresh, "--set", f"eval.baselines={{again: {model}}}")
    baseline = rows_of(first)[-1]
    assert baseline["name"] == "again"
    whole = next(row for row in rows_of(first) if row["folder"] == str(model) and row["kind"] == "student")
    assert baseline["cross_entropy_nats"] == pytest.approx(whole["cross_entropy_nats"], rel=1e-6)

    # Only the exported model is left: it is the run's own.
    shutil.rmtree(first / "student" / "checkpoints")
    toy.ran("eval", first, *fresh)
    exported = rows_of(first)[-1]
    assert (exported["name"], exported["step"]) == ("student, as exported", None)
    assert exported["cross_entropy_nats"] == pytest.approx(whole["cross_entropy_nats"], rel=1e-6)

    # And it is taught further in another run, under its own folder's name.
    again = [*options, "--set", "student.config=null", "--set", f"student.model={model}"]
    toy.ran("train-student", tmp_path / "second", *again)
    toy.ran("eval", tmp_path / "second", *again)


# ------------------------------------------------------------------ baselines


def test_every_baseline_is_looked_at_before_any_is_measured(toy: Toy, run_dir: Path, tmp_path: Path) -> None:
    good, other = trained_model(run_dir), tiny.save_stranger(tmp_path / "other")
    short = tiny.save_model(tmp_path / "short", max_position_embeddings=16)
    (tmp_path / "empty").mkdir()
    for bad, code, words in (
        ("/nope", 2, ("eval.baselines.bad: /nope: no such folder",)),
        (tmp_path / "empty", 2, ("eval.baselines.bad", "expected a model folder with config.json, found nothing")),
        (other, 3, (f"eval.baselines.bad {other}", "its tokenizer is not the teacher's", "tokens and their ids")),
        (short, 2, ("eval.baselines.bad: data.sequence_length: 32 positions", "at most 16. Leave it out")),
    ):
        ended = toy.run("eval", run_dir, "--set", f"eval.baselines={{good: {good}, bad: {bad}}}")
        untouched(run_dir, ended, code, *words)
        assert "hub does not give" not in ended.stderr
        assert "student.model" not in ended.stderr


@pytest.mark.parametrize("name", ["teacher", "student", "student (EMA)", "student at the start", " "])
def test_a_baseline_has_a_name_of_its_own(name: str, toy: Toy, run_dir: Path) -> None:
    ended = toy.run("eval", run_dir, "--set", f"eval.baselines={json.dumps({name: str(trained_model(run_dir))})}")
    untouched(run_dir, ended, 2, "eval.baselines", f"{name!r} cannot name a baseline")


def test_a_baseline_that_mixes_packed_documents_is_marked(toy: Toy, run_dir: Path, tmp_path: Path) -> None:
    leaky = tiny.save_model(tmp_path / "leaky", "opt")
    settings = f"eval.baselines={{plain: {trained_model(run_dir)}, leaky: {leaky}}}"
    ended = toy.ran("eval", run_dir, "--set", settings, "--set", "eval.max_sequences=2")
    assert ended.stderr.count("note: eval.baselines.leaky: opt models let a document see the one before it") == 1
    assert {row["name"]: row["leaks_documents"] for row in rows_of(run_dir)} == {
        "teacher": False,
        "student at the start": False,
        "student": False,
        "plain": False,
        "leaky": True,
    }
    assert "leaky †" in ended.stderr
    assert "plain †" not in ended.stderr
    assert run("report", str(run_dir)).code == 0
    page = (run_dir / "report" / "report.html").read_text(encoding="utf-8")
    assert "leaky †" in page
    assert "† This model sees the documents before its own in a packed sequence." in page


def test_in_a_cache_of_single_documents_nothing_leaks(tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    run_dir, options = tmp_path / "run", ["--set", "data.packing=one_document", "--set", "train.steps=2"]
    toy.ran("cache-teacher", run_dir, *options)
    toy.ran("train-student", run_dir, *options)
    leaky = tiny.save_model(tmp_path / "opt", "opt")
    toy.ran("eval", run_dir, *options, "--set", f"eval.baselines={{opt: {leaky}}}", "--set", "eval.max_sequences=2")
    assert not any(row["leaks_documents"] for row in rows_of(run_dir))


def trained_model(run_dir: Path) -> Path:
    """The run's exported student."""
    return run_dir / "student" / "model"


# ------------------------------------------------------------------ memory


def test_one_candidate_is_gone_before_the_next_is_loaded(
    toy: Toy, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import weakref

    alive: list[weakref.ref[Any]] = []
    counts: list[int] = []

    def counting(load: Any) -> Any:
        def loaded(*arguments: Any) -> Any:
            counts.append(sum(model() is not None for model in alive))
            causal = load(*arguments)
            alive.append(weakref.ref(causal.model))
            return causal

        return loaded

    for name in ("load_student", "load_existing"):
        monkeypatch.setattr(candidates, name, counting(getattr(candidates, name)))
    before, model = tree(run_dir / "student"), trained_model(run_dir)
    toy.ran("eval", run_dir, "--set", f"eval.baselines={{a: {model}, b: {model}}}", "--set", "eval.max_sequences=2")
    assert counts == [0, 0, 0]
    assert tree(run_dir / "student") == before
