"""A plan that somebody else wrote, with a hash and seals that fit: no command falls over what it lacks or holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.hostile_by_hand import Case, agreeing, plan
from tests.stages.toys import Toy, copy, run

pytestmark = pytest.mark.slow
_WEIGHTS = ("identity", "teacher", "files", "model.safetensors")
PARTS = (
    ("identity", "settings"),
    ("identity", "settings", "data.source"),
    ("identity", "packing_version"),
    ("identity", "source"),
    ("identity", "source", "num_files"),
    ("identity", "tokenizer"),
    ("identity", "teacher"),
    _WEIGHTS[:-1],
    _WEIGHTS,
    (*_WEIGHTS, "sha256"),
    ("capture", "batch_size"),
    ("capture", "chunk_positions"),
    ("capture", "seed"),
    ("capture", "dtype"),
    ("capture", "device_class"),
    ("capture", "packing"),
)
of_a_plan = pytest.mark.parametrize("part", PARTS, ids=".".join)


@of_a_plan
def test_a_part_that_is_absent_is_asked_for_in_words(
    part: tuple[str, ...], toy: Toy, cached: Path, tmp_path: Path
) -> None:
    run_dir = copy(cached, tmp_path / "run")
    _forge(run_dir, part, None, agreeing)
    said = _all_commands(toy, run_dir)
    if part != _WEIGHTS:  # a teacher of one file fewer is another teacher
        assert f"{'.'.join(part[:-1])} has no part {part[-1]!r}, which is needed now" in said, said


@of_a_plan
def test_a_part_of_another_type_is_no_plan(part: tuple[str, ...], toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir = copy(cached, tmp_path / "run")
    _forge(run_dir, part, [7], plan)
    ended = toy.run("train-student", run_dir)
    words = f"plan.json: is not a plan: {'.'.join(part)} must be of type"
    assert (ended.code, words in ended.stderr.replace("\n", " ")) == (4, True), ended.stderr


@pytest.mark.parametrize("name", ["batch_size", "chunk_positions"])
def test_sizes_of_nothing_are_no_plan(name: str, toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir = copy(cached, tmp_path / "run")
    _forge(run_dir, ("capture", name), 0, plan)
    ended = toy.run("cache-teacher", run_dir)
    assert (ended.code, f"capture.{name} must be at least 1, found 0" in ended.stderr) == (4, True), ended.stderr


def _all_commands(toy: Toy, run_dir: Path) -> str:
    """All that the commands say that read a plan; whatever else than a refusal ends one, is raised here."""
    said = run("inspect", str(run_dir)).stderr
    for stage, options in (
        ("train-student", ["--set", "train.steps=2"]),
        ("eval", ["--set", f"eval.teacher={toy.teacher}"]),
        ("estimate", []),
    ):
        said += toy.run(stage, run_dir, *options).stderr
    said += run("report", str(run_dir)).stderr
    for lost in ("shards/00001.seal.json", "sequences.shard"):
        (run_dir / "cache" / lost).unlink()
        said += toy.run("cache-teacher", run_dir).stderr
    return said


def _forge(run_dir: Path, part: tuple[str, ...], value: Any, forge: Callable[..., Case]) -> None:
    """Change a part of a plan, or take it out for None, and make its hash, the seals and the shards fit."""
    content = json.loads((run_dir / "cache" / "plan.json").read_bytes())
    group = content
    for key in part[:-1]:
        group = group[key]
    assert part[-1] in group, f"{part}: {sorted(group)}"
    if value is None:
        del group[part[-1]]
    else:
        group[part[-1]] = value
    forge(**{part[0]: content[part[0]]})(run_dir)
