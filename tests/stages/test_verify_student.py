"""What a training left, checked: by verify, by whoever loads the student, and by train-student itself."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from pipeline.distill.keeping.metrics_log import read_log
from tests.stages.toys import Toy, run, tree
from tests.stages.trainings import checkpoint, train


def flip(path: Path, seed: int = 0) -> None:
    """One bit of a file."""
    chance, content = random.Random(seed), bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


@pytest.fixture
def mine(trained: Path, tmp_path: Path) -> Path:
    """A finished training to damage."""
    return shutil.copytree(trained, tmp_path / "run")


def problems(run_dir: Path, root: Path) -> list[dict[str, str]]:
    ended = run("verify", str(run_dir), "--root", str(root), "--json")
    found: list[dict[str, str]] = json.loads(ended.stdout)
    assert ended.code == (4 if found else 0), ended.stderr
    return found


def test_a_whole_training_has_no_problem(trained: Path, cached: Path) -> None:
    ended = run("verify", str(trained), "--root", str(cached))
    assert ended.code == 0, ended.stderr
    assert "shards are sealed, and every byte is as it was sealed" in ended.stderr
    assert "every checkpoint, the exported model and the log are as they were written" in ended.stderr


def test_a_student_whose_cache_lies_elsewhere_is_checked_alone(mine: Path) -> None:
    assert run("verify", str(mine)).code == 0
    flip(mine / "student" / "model" / "model.safetensors")
    ended = run("verify", str(mine))
    assert ended.code == 4
    assert "model.safetensors: size or xxh3-128 differs from COMMIT.json. train-student exports it anew" in ended.stderr


def test_a_result_of_eval_that_is_harmed_is_named(mine: Path, toy: Toy, cached: Path) -> None:
    toy.ran("eval", mine, "--set", f"cache.roots=[{cached}]")
    path = mine / "eval" / "eval.json"
    assert problems(mine, cached) == []
    written = path.read_text(encoding="utf-8")
    path.write_text(written.replace('"cross_entropy_nats": 5', '"cross_entropy_nats": 4', 1), encoding="utf-8")
    [found] = problems(mine, cached)
    assert found["path"] == str(path)
    assert "does not have the digest it names" in found["what"]
    assert found["fix"] == "Run `sad-pipeline eval` again to replace it"


def test_every_file_that_is_harmed_is_named(mine: Path, cached: Path) -> None:
    student = mine / "student"
    paths = [path for path in sorted(student.rglob("*")) if path.is_file()]
    free = {"README.md", "timings.jsonl"}  # written on by its owner; what the machine took
    for number, path in enumerate(path for path in paths if path.name not in free):
        content = path.read_bytes()
        flip(path, number)
        found = problems(mine, cached)
        assert len(found) == 1, (path, found)
        assert path.name in f"{found[0]['path']}: {found[0]['what']}", (path, found)
        path.write_bytes(content)
    assert problems(mine, cached) == []


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_student_is_not_evaluated_and_exported_anew(
    toy: Toy, mine: Path, trained: Path, cached: Path, name: str
) -> None:
    """Damage that nothing else would notice: other weights, another number in its config."""
    path = mine / "student" / "model" / name
    content = path.read_bytes()
    path.write_bytes(content.replace(b"1e-06", b"1e-05") if name == "config.json" else content[:-1] + b"!")
    assert path.read_bytes() != content
    baseline = ("--set", f"eval.baselines={{other: {mine / 'student' / 'model'}}}", "--set", f"cache.roots=[{cached}]")
    ended = toy.run("eval", shutil.copytree(trained, mine.with_name("whole")), *baseline)
    assert ended.code == 4, ended.stderr
    assert f"{name}: size or xxh3-128 differs from COMMIT.json" in ended.stderr
    assert "Run train-student again" in ended.stderr
    again = train(toy, cached, mine)
    assert "the student is exported again" in again.stderr
    assert tree(mine / "student" / "model") == tree(trained / "student" / "model")
    assert "nothing left to do" in train(toy, cached, mine).stderr


def test_a_model_that_was_changed_on_purpose(toy: Toy, mine: Path, cached: Path) -> None:
    """Its card is its owner's; of another change COMMIT.json is removed."""
    model = mine / "student" / "model"
    (model / "README.md").write_text("mine")
    assert "nothing left to do" in train(toy, cached, mine).stderr
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"note": "mine"}))
    (model / "COMMIT.json").unlink()
    assert "nothing left to do" in train(toy, cached, mine).stderr
    baseline = ("--set", f"eval.baselines={{other: {model}}}", "--set", f"cache.roots=[{cached}]")
    toy.ran("eval", mine, *baseline)
    assert run("verify", str(mine)).code == 0


def test_a_damaged_log_is_told_and_training_goes_on(toy: Toy, mine: Path, trained: Path, cached: Path) -> None:
    student = mine / "student"
    shutil.rmtree(checkpoint(mine, 12))
    shutil.rmtree(student / "model")
    lines = (student / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (student / "metrics.jsonl").write_bytes(lines[0] + b'{"step": 2, "kind": \xff\n' + b"".join(lines[2:]))
    ended = train(toy, cached, mine)
    assert "metrics.jsonl: its lines are not as they were logged" in " ".join(ended.stderr.split())
    assert "line 2 is damaged, and left out" in " ".join(ended.stderr.split())
    whole = read_log(trained / "student" / "metrics.jsonl")
    assert read_log(student / "metrics.jsonl") == [whole[0], *whole[2:]]
    assert tree(student / "model") == tree(trained / "student" / "model")
