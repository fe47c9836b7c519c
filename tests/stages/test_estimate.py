"""estimate through the real command, held against the cache and the training it prices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.cache import TeacherCache
from pipeline.cache.plan import SEQUENCES_NAME
from tests.stages.toys import Toy, copy, half_sealed, stamps, tree

BYTES_TOLERANCE = 0.06  # a probe sees a fifth of the text, and none of a file's own few kilobytes
ONE_SHARD = ("--set", "cache.shard_positions=100000")


def estimated(toy: Toy, run_dir: Path, *more: str) -> dict[str, Any]:
    """What `estimate --json` says; stdout must be that object alone."""
    value: dict[str, Any] = json.loads(toy.ran("estimate", run_dir, "--json", *more).stdout)
    return value


@pytest.fixture(scope="module")
def fresh(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The estimate of a run that does not exist."""
    run_dir = tmp_path_factory.mktemp("none") / "run"
    value = estimated(toy, run_dir)
    assert not run_dir.parent.exists() or not list(run_dir.parent.iterdir())
    return value


# ------------------------------------------------------------------ before there is a plan


def test_a_student_that_is_too_short_is_told_before_the_teacher_is_loaded(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.estimate.price_new_cache", lambda *arguments: pytest.fail("the teacher is measured"))
    short = "{model_type: llama, hidden_size: 16, num_attention_heads: 2, max_position_embeddings: 16}"
    ended = toy.run("estimate", tmp_path / "run", "--set", f"student.config={short}")
    assert (ended.code, "Set student.config.max_position_embeddings to 32 or more." in ended.stderr) == (2, True)


def test_bytes_a_token_are_those_of_the_finished_cache(fresh: dict[str, Any], toy: Toy, tmp_path: Path) -> None:
    cached = tmp_path / "run"
    toy.ran("cache-teacher", cached, *ONE_SHARD)
    cache = TeacherCache.open(cached)
    seals = [shard.seal for shard in cache.shards.values()]
    real = sum(seal.size_bytes for seal in seals) / sum(seal.num_positions for seal in seals)
    assert fresh["capture"]["bytes_per_token"] == pytest.approx(real, rel=BYTES_TOLERANCE)
    on_disk = sum(seal.size_bytes for seal in seals) + (cached / "cache" / SEQUENCES_NAME).stat().st_size
    assert fresh["capture"]["cache_bytes"] == pytest.approx(on_disk, rel=BYTES_TOLERANCE)


def test_tokens_of_a_small_text_are_counted(fresh: dict[str, Any], cached: Path) -> None:
    plan = TeacherCache.open(cached).plan
    assert fresh["text"]["basis"] == "counted"
    assert fresh["text"]["num_tokens"] == fresh["capture"]["tokens_left"] == plan.num_sequences * plan.sequence_length
    assert (fresh["plan"], fresh["capture"]["sealed_bytes"]) == (None, 0)


def test_hours_and_sessions_follow_from_the_pace(fresh: dict[str, Any], toy: Toy, tmp_path: Path) -> None:
    capture, training = fresh["capture"], fresh["training"]
    assert capture["hours"] == pytest.approx(capture["tokens_left"] / capture["tokens_per_second"] / 3600)
    steps_hours = training["num_steps"] * training["seconds_per_step"] / 3600
    assert training["hours"] == pytest.approx(steps_hours + training["validation_hours"])
    assert (training["num_steps"], training["steps_done"]) == (12, 0)
    assert (capture["sessions"], training["sessions"]) == (1, 1)
    short = estimated(toy, tmp_path / "run", "--hours", "1e-6")
    for part in (short["capture"], short["training"]):
        assert part["sessions"] == pytest.approx(part["hours"] / 1e-6, abs=1)
        assert part["sessions"] > 1


def test_what_does_not_fit_is_said_with_the_settings_to_change(fresh: dict[str, Any], toy: Toy, tmp_path: Path) -> None:
    tight = estimated(toy, tmp_path / "run", "--gb", "1e-4")["disk"]
    assert (fresh["disk"]["fits"], fresh["disk"]["advice"], tight["fits"]) == (True, [], False)
    advice = "\n".join(tight["advice"])
    assert all(f"{key}: " in advice for key in ("data.max_tokens", "cache.precision", "cache.head_size"))
    own, sizes = fresh["capture"]["bytes_per_token"], tight["bytes_otherwise"]
    assert sizes["cache.precision: small"] < own < sizes["cache.precision: lossless"]
    assert {"cache.kind: compact", "cache.kind: sampled"} < set(sizes)
    room = 1e5 - 0.25 * 1200 * own  # of the last shard, which is begun only where a quarter more has room
    assert tight["tokens_that_fit"] * (own + fresh["text"]["bytes_per_token"]) == pytest.approx(room, rel=1e-3)


def test_what_does_not_fit_into_one_output_fits_into_several(toy: Toy, fresh: dict[str, Any], tmp_path: Path) -> None:
    third = fresh["capture"]["cache_bytes"] / 2.5e9
    value = estimated(toy, tmp_path / "run", "--gb", f"{third:.9f}")
    assert f"keep all of it in 3 outputs of {round(third, 9):g} GB (--max-output-gb)" in value["disk"]["advice"][-1]


def test_room_and_hours_are_those_of_the_config(toy: Toy, tmp_path: Path) -> None:
    own = ["--set", "session.max_output_gb=5", "--set", "session.time_budget_hours=3"]
    for options, gigabytes, hours in (
        ([], 19, 11),
        (own, 5, 3),
        ([*own, "--gb", "7", "--hours", "4"], 7, 4),
    ):
        value = estimated(toy, tmp_path / "run", *options)
        assert (value["disk"]["gigabytes"], value["session_hours"]) == (gigabytes, hours)


def test_the_whole_run_is_set_beside_the_room(toy: Toy, fresh: dict[str, Any], tmp_path: Path) -> None:
    training = fresh["training"]
    whole = fresh["capture"]["cache_bytes"] + training["checkpoints_bytes"] + training["model_bytes"]
    assert fresh["run_bytes"] == whole
    roomy = toy.ran("estimate", tmp_path / "run", "--gb", f"{whole / 1e9 * 1.01:.9f}").stderr
    tight = toy.ran("estimate", tmp_path / "run", "--gb", f"{whole / 1e9 * 0.99:.9f}").stderr
    assert "in one run directory" in roomy
    assert "MORE: train in another session, in a run directory of its own" in " ".join(tight.split())


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["cache.precision=lossless", "cache.head_size=8", "cache.kind=compact"])
def test_other_settings_are_priced_as_they_would_cost(toy: Toy, fresh: dict[str, Any], changed: str) -> None:
    sizes = ["--set", "cache.head_size=64", "--set", "cache.num_draws=16"] if "kind" in changed else []
    other = estimated(toy, toy.folder / "nowhere", "--set", changed, *sizes)["capture"]["bytes_per_token"]
    priced = fresh["disk"]["bytes_otherwise"][changed.replace("=", ": ")]
    assert priced == pytest.approx(other, rel=0.1)  # of fewer sequences


def test_a_long_text_is_estimated_from_its_bytes(toy: Toy, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.survey.SAMPLE_TOKENS", 3000)
    value = estimated(toy, toy.folder / "nowhere")
    plan = TeacherCache.open(cached).plan
    assert value["text"]["basis"].startswith("estimated from the bytes")
    assert value["text"]["num_tokens"] == pytest.approx(plan.num_sequences * plan.sequence_length, rel=0.05)


# ------------------------------------------------------------------ after a plan


def test_half_a_cache_is_priced_by_what_is_left(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir = half_sealed(cached, tmp_path / "run")
    before, times = tree(run_dir), stamps(run_dir)
    value = estimated(toy, run_dir)
    assert (tree(run_dir), stamps(run_dir)) == (before, times)
    cache = TeacherCache.open(run_dir)
    seals = [shard.seal for shard in cache.shards.values()]
    capture = value["capture"]
    assert value["plan"] == cache.plan.hash
    assert capture["tokens_left"] == sum(span.count for span in cache.missing) * cache.plan.sequence_length > 0
    assert capture["sealed_bytes"] == sum(seal.size_bytes for seal in seals)
    assert capture["bytes_per_token"] == capture["sealed_bytes"] / sum(seal.num_positions for seal in seals)
    finished = sum(path.stat().st_size for path in cached.glob("cache/**/*.shard"))
    assert capture["cache_bytes"] == pytest.approx(finished, rel=BYTES_TOLERANCE)


def test_a_finished_cache_needs_no_teacher(toy: Toy, cached: Path, tmp_path: Path) -> None:
    capture = estimated(toy, copy(cached, tmp_path / "run"), "--set", "teacher.model=gone")["capture"]
    assert (capture["tokens_left"], capture["hours"], capture["sessions"]) == (0, 0.0, 0)
    assert capture["tokens_per_second"] is None


def test_a_training_that_is_frozen_to_some_shards_has_the_steps_of_these(
    toy: Toy, cached: Path, tmp_path: Path
) -> None:
    run_dir, epochs = copy(cached, tmp_path / "run"), ["--set", "train.steps=null", "--set", "train.epochs=1"]
    (run_dir / "cache" / "shards" / "00001.seal.json").unlink()
    toy.ran("train-student", run_dir, "--use-sealed-only", *epochs)
    training = estimated(toy, run_dir, *epochs)["training"]
    assert training["num_steps"] == training["steps_done"] > 0


def test_a_training_that_has_begun_is_priced_from_its_checkpoint(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    run_dir = copy(trained, tmp_path / "run")
    (run_dir / "student" / "checkpoints" / "step-00000012" / "COMMIT.json").unlink()
    before = tree(run_dir)
    training = estimated(toy, run_dir, "--set", f"cache.roots=[{cached}]")["training"]
    assert tree(run_dir) == before
    assert (training["num_steps"], training["steps_done"]) == (12, 8)
    steps_hours = 4 * training["seconds_per_step"] / 3600
    assert training["hours"] == pytest.approx(steps_hours + training["validation_hours"])


def test_checkpoints_take_what_is_said(toy: Toy, fresh: dict[str, Any], trained: Path) -> None:
    training = fresh["training"]
    folders = list((trained / "student" / "checkpoints").glob("step-*"))
    real = sum(path.stat().st_size for path in folders[0].glob("*.safetensors"))
    assert training["checkpoint_bytes"] == pytest.approx(real, rel=0.1)  # headers weigh at this size
    on_disk = sum(path.stat().st_size for path in trained.glob("student/checkpoints/*/*.safetensors"))
    assert training["checkpoints_bytes"] >= 0.9 * on_disk
    memory = training["memory"]
    assert memory["gradients"] == memory["average"] == memory["optimizer"] // 2
    assert memory["parameters"] == pytest.approx(memory["gradients"], abs=64)  # and a few frequencies in buffers


# ------------------------------------------------------------------ what is refused, what is shown


def test_what_cache_teacher_refuses_is_refused(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir = copy(cached, tmp_path / "run")
    before = tree(run_dir)
    assert toy.run("estimate", run_dir, "--set", "cache.head_size=8").code == 3
    assert toy.run("estimate", tmp_path / "none", "--set", "data.path=gone").code == 2
    assert toy.run("estimate", tmp_path / "none", "--gb", "0").code == 2
    ended = toy.run("estimate", tmp_path / "none", "--set", "cache.num_draws=0")
    assert (ended.code, "Set train.objective to bucket" in ended.stderr) == (2, True)
    assert (tree(run_dir), (tmp_path / "none").exists()) == (before, False)


def test_people_read_tables(toy: Toy, tmp_path: Path) -> None:
    ended = toy.ran("estimate", tmp_path / "run")
    assert ended.stdout == ""
    for words in (
        "bytes a token",
        "time of capture",
        "session of 11 hours",
        "fit in 19 GB",
        "checkpoints",
        "optimizer",
    ):
        assert words in ended.stderr
