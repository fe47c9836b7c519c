"""train-student through the real command: finish, refuse, fork, freeze, skip."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.cache import TeacherCache
from pipeline.data.sequences import TRAIN
from pipeline.errors import IdentityError
from pipeline.models.cache_identity import refuse_other_cache, refuse_other_settings
from pipeline.models.planning import planned_sequences
from pipeline.pause import PauseRequest
from stages import train_student
from stages.config import load_run_config
from tests.stages.toys import (
    Toy,
    copy,
    flip_a_bit,
    stamps,
    status,
    temporaries,
    tree,
)
from tests.stages.trainings import STAGE, checkpoint, metrics, train, what_counts

# ------------------------------------------------------------------ the straight run


def test_leaves_checkpoints_metrics_and_a_model(trained: Path) -> None:
    left = status(trained)
    assert (left["stage"], left["state"], left["progress"]) == (STAGE, "complete", {"of": 12, "steps": 12})
    lines = metrics(trained)
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 13))
    validations = [(line["step"], line["weights"]) for line in lines if line["kind"] == "validation"]
    assert validations == [(6, "raw"), (6, "ema"), (12, "raw"), (12, "ema")]
    assert lines[0]["loss"] > [line for line in lines if line["kind"] == "train"][-1]["loss"]
    assert temporaries(trained) == []
    assert sorted(path.name for path in (trained / "student" / "checkpoints").glob("step-*")) == [
        "step-00000008",
        "step-00000012",
    ]


def test_the_same_again_is_the_same_bytes_and_a_finished_one_is_left_alone(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    train(toy, cached, tmp_path / "run")
    assert what_counts(tmp_path / "run") == what_counts(trained)
    before, times = tree(trained / "student"), stamps(trained / "student")
    assert "nothing left to do" in train(toy, cached, trained).stderr
    assert (tree(trained / "student"), stamps(trained / "student")) == (before, times)


# ------------------------------------------------------------------ what may change, and what not


def test_a_schedule_key_is_refused_and_a_free_one_resumes(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir, roots = tmp_path / "run", ("--set", f"cache.roots=[{cached}]")
    toy.ran(STAGE, run_dir, *roots, "--time-budget", "1e-6")
    before, config = tree(run_dir / "student"), (run_dir / "config.yaml").read_bytes()
    ended = toy.run(STAGE, run_dir, *roots, "--set", "train.learning_rate=0.01", "--set", "train.steps=20")
    assert ended.code == 3
    assert "train.learning_rate: 0.001 -> 0.01" in ended.stderr
    assert "train.steps: 12 -> 20" in ended.stderr
    assert "--fork-from" in ended.stderr
    assert tree(run_dir / "student") == before
    assert (run_dir / "config.yaml").read_bytes() == config, "the config of the run is still the one it was made with"
    assert status(run_dir)["state"] == "paused", "and so is its status"
    ended = toy.ran(STAGE, run_dir, *roots, "--set", "train.log_every=3")
    assert "continuing after step 1" in ended.stderr


def test_a_changed_student_is_refused(toy: Toy, cached: Path, trained: Path) -> None:
    ended = toy.run(STAGE, trained, "--set", f"cache.roots=[{cached}]", "--set", "student.seed=5")
    assert ended.code == 3
    assert "student.seed: 0 -> 5" in ended.stderr


@pytest.mark.parametrize(
    ("setting", "difference"),
    [
        ("data.sequence_length=16", "data.sequence_length: 32 -> 16"),
        ("cache.head_size=8", "cache.head_size: 16 -> 8"),
        ("cache.batch_size=2", "cache.batch_size: 8 -> 2"),
        ("teacher.dtype=bfloat16", "teacher.dtype: 'float32' -> 'bfloat16'"),
    ],
)
def test_a_config_of_another_cache_is_refused(
    setting: str, difference: str, toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    options = ["--set", f"cache.roots=[{cached}]", "--set", setting]
    before = {name: digest for name, digest in tree(trained).items() if name != "status.json"}
    for run_dir in (trained, tmp_path / "new"):
        ended = toy.run(STAGE, run_dir, *options)
        assert ended.code == 3, ended.stderr
        assert difference in ended.stderr
        assert not (tmp_path / "new" / "student").exists()
    assert {name: digest for name, digest in tree(trained).items() if name != "status.json"} == before


def test_a_cache_of_an_older_version_is_learned_from_and_added_to(toy: Toy, cached: Path, tmp_path: Path) -> None:
    """Older packing, and a setting that shaped caches then: what is packed stays, and cannot be packed again."""
    config = load_run_config(str(toy.config))
    parts = (config.data, config.teacher, config.cache)
    plan = TeacherCache.open(cached).plan
    settings = plan.identity["settings"] | {"data.revision": None}
    older = replace(plan, identity=plan.identity | {"packing_version": 1, "settings": settings})
    refuse_other_settings(older, cached, *parts)
    refuse_other_cache(older, cached, *parts)
    sequences = planned_sequences(older, [cached / "cache"], tmp_path, config.data, config.teacher, PauseRequest())
    assert sequences.num_sequences == plan.num_sequences
    with pytest.raises(
        IdentityError, match=r"packed as of version 1, and .* of version \d.*Bring sequences\.shard back"
    ):
        planned_sequences(older, [tmp_path], tmp_path, config.data, config.teacher, PauseRequest())
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_and_texts_that_are_gone_are_not_asked_for(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    gone = ["--set", f"teacher.model={tmp_path / 'gone'}", "--set", f"data.path={tmp_path / 'gone'}"]
    train(toy, cached, tmp_path / "run", *gone)
    assert metrics(tmp_path / "run") == metrics(trained)


def test_forks_into_a_new_run_that_resumes_like_any(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    longer = ["--set", "train.steps=16", "--set", "train.learning_rate=5e-4", "--fork-from", str(trained)]
    before = tree(trained)
    ended = train(toy, cached, tmp_path / "straight", *longer)
    assert "train.steps: 12 -> 16" in ended.stderr
    assert tree(trained) == before
    train(toy, cached, tmp_path / "stopped", *longer, "--time-budget", "1e-6")
    assert status(tmp_path / "stopped")["progress"] == {"steps": 13, "of": 16}
    assert "continuing after step 13" in train(toy, cached, tmp_path / "stopped", *longer).stderr
    straight, stopped = (tree(tmp_path / name / "student") for name in ("straight", "stopped"))
    for name in ("metrics.jsonl", "model/model.safetensors", "checkpoints/step-00000016/optimizer.safetensors"):
        assert straight[name] == stopped[name]
    steps = [line["step"] for line in metrics(tmp_path / "straight") if line["kind"] == "train"]
    assert steps == list(range(1, 17))


def test_forks_that_cannot_be(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    roots = ("--set", f"cache.roots=[{cached}]")
    ended = toy.run(STAGE, tmp_path / "a", *roots, "--set", "train.steps=10", "--fork-from", str(trained))
    assert ended.code == 2
    assert "after step 12, and this training ends at 10" in ended.stderr
    ended = toy.run(STAGE, tmp_path / "b", *roots, "--fork-from", str(cached))
    assert ended.code == 2
    assert "expected a run with a finished checkpoint" in ended.stderr
    ended = toy.run(STAGE, tmp_path / "b", *roots, "--fork-from", str(tmp_path / "gone"))
    assert (ended.code, f"--fork-from {tmp_path / 'gone'}: expected a run with" in ended.stderr) == (2, True)
    options = ["--set", "student.config.hidden_size=8", "--set", "train.steps=14", "--fork-from", str(trained)]
    ended = toy.run(STAGE, tmp_path / "c", *roots, *options)
    assert ended.code == 3
    assert "these weights are not of this student" in ended.stderr


def test_a_fork_that_begins_to_average_begins_with_the_forked_weights(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    train(toy, cached, tmp_path / "plain", "--set", "train.ema_decay=0")
    options = ["--set", "train.steps=13", "--set", "train.ema_decay=0.9", "--fork-from", str(tmp_path / "plain")]
    train(toy, cached, tmp_path / "forked", *options)
    origin = load_file(checkpoint(tmp_path / "forked", 12) / "average.safetensors")
    weights = load_file(checkpoint(tmp_path / "plain", 12) / "weights.safetensors")
    for name, average in origin.items():
        torch.testing.assert_close(average, weights[name], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_fork_goes_on_in_another_dtype_and_says_so(
    dtype: str, toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    options = ["--set", "train.steps=14", "--set", f"train.dtype={dtype}"]
    ended = train(toy, cached, tmp_path / "run", *options, "--fork-from", str(trained))
    assert f"up to 12 were done in float32, those from here on are in {dtype}" in ended.stderr
    back = ["--set", "train.steps=16", "--fork-from", str(tmp_path / "run")]
    ended = train(toy, cached, tmp_path / "back", *back)
    assert f"up to 14 were done in {dtype}, those from here on are in float32" in ended.stderr


def test_the_same_config_on_another_card_says_its_dtype(
    toy: Toy, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`train.dtype: auto` means another dtype where the next session's card is another one."""
    assert "were done in" not in train(toy, cached, tmp_path / "run", "--time-budget", "1e-6").stderr
    monkeypatch.setattr(train_student, "choose_dtype", lambda setting, device: torch.float16)
    ended = train(toy, cached, tmp_path / "run")
    assert "up to 1 were done in float32, those from here on are in float16 (train.dtype: auto)" in ended.stderr


# ------------------------------------------------------------------ which lessons


def test_an_unfinished_cache_is_refused_or_frozen(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    copy(cached, run_dir)
    seal = run_dir / "cache" / "shards" / "00001.seal.json"
    kept = seal.read_bytes()
    seal.unlink()
    ended = toy.run(STAGE, run_dir)
    assert ended.code == 6
    assert "8 of 9 shards are sealed" in ended.stderr
    assert "--use-sealed-only" in ended.stderr

    toy.ran(STAGE, run_dir, "--use-sealed-only", "--time-budget", "1e-6")
    seal.write_bytes(kept)  # the ninth shard is sealed between two starts: this training goes on without it
    ended = toy.ran(STAGE, run_dir, "--use-sealed-only")
    assert "continuing after step 1" in ended.stderr
    state = json.loads((checkpoint(run_dir, 12) / "state.json").read_text())
    assert state["training"]["frozen_shards"] == [[0, 0], [2, 8]]
    forgotten = toy.run(STAGE, run_dir)
    assert forgotten.code == 3
    assert "It was begun with --use-sealed-only: run it so again." in forgotten.stderr
    (run_dir / "cache" / "shards" / "00002.seal.json").unlink()
    ended = toy.run(STAGE, run_dir, "--use-sealed-only", "--set", "train.log_every=2")
    assert ended.code == 6
    assert "[2] of them are not here" in ended.stderr


def test_labels_only_reads_no_record(toy: Toy, cached: Path, tmp_path: Path) -> None:
    """With every training shard damaged inside, labels are still learned from."""
    options = ["--set", "train.ce_weight=1", "--set", "train.kd_weight=0"]
    train(toy, cached, tmp_path / "whole", *options)
    damaged = copy(cached, tmp_path / "damaged")
    with TeacherCache.open(cached) as cache:
        names = [span.shard_name for span in cache.plan.spans(TRAIN)]
    for name in names:
        flip_a_bit(damaged / "cache" / "shards" / name, 0.3)
    train(toy, damaged, tmp_path / "run", *options)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    assert {line["kd"] for line in metrics(tmp_path / "run") if line["kind"] == "train"} == {None}


def test_epochs_end_where_all_was_seen_that_often(toy: Toy, cached: Path, tmp_path: Path) -> None:
    options = ["--set", "train.steps=null", "--set", "train.epochs=0.25", "--set", "train.batch_size=8"]
    ended = train(toy, cached, tmp_path / "run", *options)
    assert "7 steps done" in ended.stderr  # 216 training sequences, a quarter of them, 8 a step
