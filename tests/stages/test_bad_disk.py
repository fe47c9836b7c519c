"""Damaged files, full and read-only disks: the exit code, a message that teaches, and nothing sealed is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import files, output_limit
from pipeline.commits import COMMIT, write_commit
from tests.mounts import mounted
from tests.stages.refusals import nothing_half_written, refuse
from tests.stages.toys import Toy, copy, flip_a_bit, run, status, tree
from tests.stages.trainings import what_counts

# ------------------------------------------------------------------ damage


@pytest.mark.parametrize("damage", ["bit", "cut", "gone", "seal", "seal-bit"])
def test_a_damaged_shard_is_found_repaired_and_computed_again(
    damage: str, toy: Toy, cached: Path, tmp_path: Path
) -> None:
    run_dir = copy(cached, tmp_path / "run")
    shard, seal = (run_dir / "cache" / "shards" / f"00002.{kind}" for kind in ("shard", "seal.json"))
    if damage == "bit":
        flip_a_bit(shard, 0.4)
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif damage == "gone":
        shard.unlink()
    elif damage == "seal":
        seal.write_text("{}")
    else:
        flip_a_bit(seal, 0.99)
    broken = tree(run_dir / "cache")

    ended = run("verify", str(run_dir))
    refuse(ended, 4, "00002", "repair")
    ended = toy.run("train-student", run_dir)
    refuse(ended, 4, "00002", "repair")
    assert tree(run_dir / "cache") == broken
    assert run("repair", str(run_dir)).code == 0
    toy.ran("cache-teacher", run_dir)
    assert tree(run_dir / "cache") == tree(cached / "cache")
    assert run("verify", str(run_dir)).code == 0
    nothing_half_written(run_dir)


@pytest.mark.parametrize("damage", ["other", "cut", "spare", "gone"])
def test_another_tokenizer_beside_the_plan_is_noticed_and_mended(
    damage: str, toy: Toy, cached: Path, tmp_path: Path
) -> None:
    run_dir = copy(cached, tmp_path / "run")
    folder = run_dir / "cache" / "tokenizer"
    vocabulary = folder / "tokenizer.json"
    if damage == "other":
        value = json.loads(vocabulary.read_text())
        ids = value["model"]["vocab"]
        ids["a"], ids["b"] = ids["b"], ids["a"]
        vocabulary.write_text(json.dumps(value))
        (folder / COMMIT).unlink()  # whole, and of something else
        write_commit(folder, {path.name: files.digest_file(path) for path in folder.iterdir()})
    elif damage == "cut":
        vocabulary.write_bytes(vocabulary.read_bytes()[:100])
    elif damage == "spare":  # what nothing here reads, and the student's tokenizer would hold as well
        path = folder / "tokenizer_config.json"
        path.write_text(path.read_text().replace("model_max_length", "model_mar_length"))
    else:
        shutil.rmtree(folder)
    code = 6 if damage == "gone" else 4
    refuse(run("verify", str(run_dir)), 4, "tokenizer")
    refuse(run("repair", str(run_dir)), 4, "tokenizer")
    refuse(toy.run("train-student", run_dir), code, "tokenizer")
    toy.ran("cache-teacher", run_dir)
    assert tree(run_dir / "cache") == tree(cached / "cache")
    assert run("verify", str(run_dir)).code == 0


def test_a_tokenizer_without_digests_is_that_of_an_earlier_version(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir = copy(cached, tmp_path / "run")
    (run_dir / "cache" / "tokenizer" / "COMMIT.json").unlink()
    assert run("verify", str(run_dir)).code == 0
    toy.ran("train-student", run_dir, "--set", "train.steps=1")


def test_what_cannot_be_repaired_is_said_with_its_exit_code(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = copy(cached, tmp_path / "run")
    (run_dir / "cache" / "stray.txt").write_text("?")
    refuse(run("repair", str(run_dir)), 4, "stray.txt", "not part of this cache")
    (run_dir / "cache" / "stray.txt").unlink()
    with files.hold_lock(run_dir / ".lock", "at work in this run directory"):
        for place in (run_dir, run_dir / "cache", tmp_path):
            refuse(run("repair", str(place)), 7, "another process")
        monkeypatch.chdir(run_dir / "cache")
        refuse(run("repair", "."), 7, "another process")
    assert run("repair", str(run_dir)).code == 0
    monkeypatch.chdir(run_dir)
    assert run("repair", ".").code == 0


def test_verify_without_any_plan(tmp_path: Path) -> None:
    refuse(run("verify", str(tmp_path)), 6, "no cache here (looked for plan.json, at any depth, in", "cache-teacher")


@pytest.mark.parametrize("damage", ["bit", "gone"])
def test_damaged_sequences_are_packed_again(damage: str, toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir = copy(cached, tmp_path / "run")
    path = run_dir / "cache" / "sequences.shard"
    flip_a_bit(path) if damage == "bit" else path.unlink()
    refuse(run("verify", str(run_dir)), 4, "sequences.shard", "cache-teacher")
    refuse(toy.run("train-student", run_dir), 4, "sequences.shard")
    assert "Packing the sequences again" in toy.ran("cache-teacher", run_dir).stderr
    assert tree(run_dir / "cache") == tree(cached / "cache")


def test_a_damaged_plan(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir = copy(cached, tmp_path / "run")
    path = run_dir / "cache" / "plan.json"
    path.write_text(path.read_text().replace('"head_size": 16', '"head_size": 15'))
    for stage in ("cache-teacher", "train-student"):
        refuse(toy.run(stage, run_dir), 4, "plan.json")
    refuse(run("verify", str(run_dir)), 4, "plan.json")
    assert len(list((run_dir / "cache" / "shards").glob("*.seal.json"))) == 9


# ------------------------------------------------------------------ the disk


@pytest.fixture
def filled_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is filled after it was asked."""
    monkeypatch.setattr(output_limit, "free_below", lambda folder: 10**12)


@pytest.mark.usefixtures("filled_later")
@pytest.mark.parametrize("kilobytes", [24, 200])
def test_a_full_disk_in_cache_teacher(kilobytes: int, toy: Toy, cached: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs") as disk:
        ended = toy.run("cache-teacher", disk / "run")
        refuse(ended, 7, str(disk / "run" / "cache"), "the disk is full", "run the same command again")
        nothing_half_written(disk / "run")
        sealed = tree(disk / "run" / "cache") if (disk / "run" / "cache" / "plan.json").exists() else {}
        subprocess.run(["mount", "-o", "remount,size=4M", str(disk)], check=True)
        toy.ran("cache-teacher", disk / "run")
        after = tree(disk / "run" / "cache")
        assert after == tree(cached / "cache")
        assert sealed.items() <= after.items()


@pytest.mark.usefixtures("filled_later")
@pytest.mark.parametrize("kilobytes", [12, 240, 520])
def test_a_full_disk_in_train_student(kilobytes: int, toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    roots = ["--set", f"cache.roots=[{cached}]"]
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs") as disk:
        ended = toy.run("train-student", disk / "run", *roots)
        refuse(ended, 7, str(disk / "run"), "the disk is full")
        nothing_half_written(disk / "run")
        subprocess.run(["mount", "-o", "remount,size=4M", str(disk)], check=True)
        toy.ran("train-student", disk / "run", *roots)
        after, straight = tree(disk / "run" / "student"), tree(trained / "student")
        for name in ("metrics.jsonl", "model/model.safetensors", "checkpoints/step-00000012/optimizer.safetensors"):
            assert after[name] == straight[name]


@pytest.mark.usefixtures("filled_later")
def test_a_full_disk_while_the_student_is_exported(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=4M", "tmpfs") as disk:
        copy(trained, disk / "run")
        shutil.rmtree(disk / "run" / "student" / "model")
        free = os.statvfs(disk)
        (disk / "ballast").write_bytes(b"x" * (free.f_bavail * free.f_bsize - 40_000))
        ended = toy.run("train-student", disk / "run", "--set", f"cache.roots=[{cached}]")
        refuse(ended, 7, "student/model", "the disk is full")
        assert not (disk / "run" / "student" / "model").exists()
        nothing_half_written(disk / "run")
        (disk / "ballast").unlink()
        toy.ran("train-student", disk / "run", "--set", f"cache.roots=[{cached}]")
        assert tree(disk / "run" / "student" / "model") == tree(trained / "student" / "model")


@pytest.mark.parametrize(
    ("stage", "kilobytes", "words"),
    [
        ("cache-teacher", 64, "paused before there was a plan: the disk has no room"),
        ("cache-teacher", 240, "shards sealed"),
        ("train-student", 240, "paused after step 0 of 12: the disk has no room"),
        ("train-student", 420, "paused after step 4 of 12: the disk has no room"),
    ],
)
def test_a_small_disk_is_asked_before_the_work(
    stage: str, kilobytes: int, words: str, toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    """A pause, without a limit and with nothing lost; with room the same command gets on."""
    roots = ["--set", f"cache.roots=[{cached}]"] if stage == "train-student" else []
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs") as disk:
        for _ in range(2):
            ended = toy.ran(stage, disk / "run", *roots)
            left = status(disk / "run")
            assert (left["state"], left["waits_for"]) == ("paused", "room")
            assert words in left["message"]
            assert "Nothing is lost: make room there, and run the same command again." in ended.stderr
            assert "To continue, once there is room: " in ended.stderr
            nothing_half_written(disk / "run")
        subprocess.run(["mount", "-o", "remount,size=4M", str(disk)], check=True)
        toy.ran(stage, disk / "run", *roots)
        if stage == "cache-teacher":
            assert tree(disk / "run" / "cache") == tree(cached / "cache")
        else:
            assert what_counts(disk / "run") == what_counts(trained)
        assert "waits_for" not in status(disk / "run")


def test_a_full_disk_without_the_right_to_mount(
    toy: Toy, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's refusal comes from fsync here, at the fourth shard."""
    real = os.fsync
    shards = 0

    def full(descriptor: int) -> None:
        nonlocal shards
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        shards += name.endswith(files.TEMPORARY_SUFFIX) and ".shard." in name and "sequences" not in name
        if shards == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        ended = toy.run("cache-teacher", tmp_path / "run")
    refuse(ended, 7, ".shard: the disk is full")
    nothing_half_written(tmp_path / "run")
    assert len(list((tmp_path / "run" / "cache" / "shards").glob("*.seal.json"))) == 3
    toy.ran("cache-teacher", tmp_path / "run")
    assert tree(tmp_path / "run" / "cache") == tree(cached / "cache")


def full_at(patch: pytest.MonkeyPatch, number: int) -> list[str]:
    """The disk is full at the n-th operation (from 0) that needs space; returns a list that then names it."""
    count, hit = 0, []

    def limited(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == number + 1:
                hit.append(f"{name} {args[:1]}")
                raise OSError(errno.ENOSPC, "No space left on device")
            return operation(*args, **kwargs)

        return counted

    for name in ("fsync", "replace", "rename", "mkdir"):
        patch.setattr(os, name, limited(name, getattr(os, name)))
    return hit


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["cache-teacher", "train-student"])
def test_a_disk_that_is_full_at_any_operation(
    stage: str, toy: Toy, cached: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = ["--set", f"cache.roots=[{cached}]"] if stage == "train-student" else []
    straight, failures = tree(trained if roots else cached), 0
    for number in range(0, 300, 7):
        run_dir = tmp_path / f"run-{number}"
        with monkeypatch.context() as patch:
            hit = full_at(patch, number)
            ended = toy.run(stage, run_dir, *roots)
        if not hit:
            break
        # A library that looks whether its folder is there after all, and finds it, may go on.
        assert ended.code == 7 or hit[0].startswith("mkdir"), (number, hit, ended.stderr)
        failures += ended.code == 7
        toy.ran(stage, run_dir, *roots)
        nothing_half_written(run_dir)
        made = tree(run_dir)
        for name in straight.keys() - {"status.json", "config.yaml", "student/timings.jsonl"}:
            assert made[name] == straight[name], (number, hit, name)
    assert failures >= 9


@pytest.mark.parametrize("stage", ["cache-teacher", "train-student", "eval"])
def test_a_read_only_run_directory(stage: str, toy: Toy, trained: Path, cached: Path, tmp_path: Path) -> None:
    """A run on a file system that is mounted read-only, as earlier outputs are on notebook hosts."""
    run_dir = copy(trained, tmp_path / "run")
    copy(cached / "cache", run_dir / "cache")
    before = tree(run_dir)
    with mounted(tmp_path / "disk", "--bind", "-o", "ro", str(run_dir)) as disk:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)
        ended = toy.run(stage, disk)
    refuse(ended, 7, str(tmp_path / "disk"), "cannot be written", "--run-dir")
    assert tree(run_dir) == before


def test_a_file_where_the_run_directory_should_be(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    for run_dir in (tmp_path / "run", tmp_path / "run" / "below"):
        refuse(toy.run("cache-teacher", run_dir), 7, str(tmp_path / "run"), "--run-dir")
    assert (tmp_path / "run").read_text() == "mine"


def test_a_file_where_the_shards_should_be(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "run" / "cache").mkdir(parents=True)
    (tmp_path / "run" / "cache" / "shards").write_text("mine")
    refuse(toy.run("cache-teacher", tmp_path / "run"), 7, "shards", "a file stands where a folder is needed")
