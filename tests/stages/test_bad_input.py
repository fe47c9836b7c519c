"""What bad input gets: the exit code, a message that teaches, and nothing half-written or lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import files
from pipeline.cache import TeacherCache
from tests import tiny
from tests.stages.toys import Ended, Toy, copy, flip_a_bit, make_toy, run, status, temporaries, tree


def refuse(ended: Ended, code: int, *words: str) -> None:
    """The command ended with `code`, and its one message holds all the words."""
    assert ended.code == code, ended.stderr
    for word in words:
        assert word in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def nothing_half_written(run_dir: Path) -> None:
    """No temporary file, and no plan without what it speaks of."""
    assert temporaries(run_dir) == []
    if (run_dir / "cache" / "plan.json").exists():
        TeacherCache.open(run_dir)
        assert (run_dir / "cache" / "sequences.shard").is_file()
        assert (run_dir / "cache" / "tokenizer" / "tokenizer.json").is_file()


# ------------------------------------------------------------------ the config


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.lerning_rate=1e-3", ("unknown key 'train.lerning_rate'", "'train.learning_rate'")),
        ("cach.head_size=8", ("unknown key 'cach'", "'cache'")),
        ("cache.head_size=many", ("'cache.head_size'", "valid integer", "'many'")),
        ("cache.head_size=0", ("'cache.head_size'", "greater than or equal to 1", "found 0")),
        ("train.temperature.start=7", ("'train.temperature.start'", "less than or equal to 4")),
        ("train.epochs=2", ("give either train.steps or train.epochs",)),
        ("student.model=x", ("give either student.model", "or student.config")),
        ("data.source=cloud", ("'data.source'", "'stdlib'", "found 'cloud'")),
        ("teacher.device=no", ("'teacher.device'", "found False", "YAML")),
        ("nonsense", ("expected key.sub=value",)),
    ],
)
def test_a_wrong_config_is_refused_before_anything_is_made(
    setting: str, words: tuple[str, ...], toy: Toy, tmp_path: Path
) -> None:
    refuse(toy.run("cache-teacher", tmp_path / "run", "--set", setting), 2, *words)
    assert not (tmp_path / "run").exists()


def test_a_missing_config_names_the_bundled_ones(tmp_path: Path) -> None:
    refuse(run("cache-teacher", "-c", str(tmp_path / "no.yaml")), 2, "no.yaml: no such file", "Bundled: demo")


def test_a_config_that_is_not_yaml(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("data: [1, 2\n")
    refuse(run("cache-teacher", "-c", str(tmp_path / "broken.yaml")), 2, "is not valid YAML")


# ------------------------------------------------------------------ text and models that are not there, or do not fit


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data.path={tmp}/nowhere", ("{tmp}/nowhere",)),
        ("data.path={tmp}/empty", ("{tmp}/empty",)),
        ("data.path={tmp}/blank", ("of 2 read none is usable", "2 empty: a.txt, b.txt", "Check data.path")),
        ("teacher.model={tmp}/nowhere", ("{tmp}/nowhere", "no such folder, and the hub")),
        ("teacher.model={tmp}/empty", ("{tmp}/empty",)),
        ("cache.roots=[{tmp}/nowhere]", ("{tmp}/nowhere: no such folder",)),
        ("data.sequence_length=200", ("200", "128", "data.sequence_length")),
    ],
)
def test_cache_teacher_on_what_is_not_there(setting: str, words: tuple[str, ...], toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "blank" / name).write_text("")
    ended = toy.run("cache-teacher", tmp_path / "run", "--set", setting.format(tmp=tmp_path))
    refuse(ended, 2, *(word.format(tmp=tmp_path) for word in words))
    assert status(tmp_path / "run")["state"] == "failed"
    assert not (tmp_path / "run" / "cache").exists()
    nothing_half_written(tmp_path / "run")


def test_a_teacher_without_safetensors(toy: Toy, tmp_path: Path) -> None:
    folder = copy(toy.teacher, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    ended = toy.run("cache-teacher", tmp_path / "run", "--set", f"teacher.model={folder}")
    refuse(ended, 2, "expected model.safetensors", "pytorch_model.bin", "Only safetensors are read", "save_pretrained")
    nothing_half_written(tmp_path / "run")


def test_damaged_weights(toy: Toy, tmp_path: Path) -> None:
    folder = copy(toy.teacher, tmp_path / "cut")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    refuse(toy.run("cache-teacher", tmp_path / "run", "--set", f"teacher.model={folder}"), 2, str(folder))


def test_a_teacher_with_fewer_rows_than_ids(toy: Toy, tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "small", vocab_size=257)
    ended = toy.run("cache-teacher", tmp_path / "run", "--set", f"teacher.model={folder}")
    refuse(ended, 2, "ids up to 258", "257 rows")
    nothing_half_written(tmp_path / "run")


@pytest.mark.parametrize("setting", ["teacher.model=some-body/some-teacher", "student.model=some-body/some-student"])
def test_an_unreachable_hub(setting: str, toy: Toy, cached: Path, tmp_path: Path) -> None:
    """HF_HUB_OFFLINE is set for all tests: no hub can be reached."""
    stage = "train-student" if setting.startswith("student") else "cache-teacher"
    options = ["--set", f"cache.roots=[{cached}]", "--set", "student.config=null"] if stage == "train-student" else []
    ended = toy.run(stage, tmp_path / "run", *options, "--set", setting)
    refuse(ended, 2, "some-body/some-", "hub")
    nothing_half_written(tmp_path / "run")


def test_an_unreachable_hub_dataset(toy: Toy, tmp_path: Path) -> None:
    options = ["--set", "data.source=hub", "--set", "data.dataset=some-body/some-text"]
    refuse(
        toy.run("cache-teacher", tmp_path / "run", *options),
        2,
        "some-body/some-text",
        "HF_HUB_OFFLINE",
        "name its folder as data.dataset",
    )
    nothing_half_written(tmp_path / "run")


def test_more_ids_in_the_head_than_there_are_is_fine(toy: Toy, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    options = ["--set", "cache.head_size=1000", "--set", "data.max_documents=6"]
    toy.ran("cache-teacher", run_dir, *options)
    toy.ran("train-student", run_dir, *options, "--set", "train.steps=2")
    with TeacherCache.open(run_dir) as cache:
        assert (cache.plan.layout.head_size, cache.plan.layout.num_draws) == (259, 0)


# ------------------------------------------------------------------ another cache, another tokenizer


def test_the_cache_of_another_plan_is_refused_and_stays(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir = copy(cached, tmp_path / "run")
    before, config = tree(run_dir / "cache"), (run_dir / "config.yaml").read_bytes()
    ended = toy.run("cache-teacher", run_dir, "--set", "cache.head_size=8", "--set", "data.sequence_length=16")
    refuse(ended, 3, "cache.head_size: 16 -> 8", "data.sequence_length: 32 -> 16", "--run-dir")
    ended = toy.run("cache-teacher", run_dir, "--set", "cache.batch_size=2")
    refuse(ended, 3, "cache.batch_size: 8 -> 2")
    other = tiny.save_model(tmp_path / "other-teacher", seed=1)
    ended = toy.run("cache-teacher", run_dir, "--set", f"teacher.model={other}")
    refuse(ended, 3, "teacher.files.model.safetensors")
    texts = copy(toy.texts, tmp_path / "texts")
    (texts / "more.txt").write_text("one more document")
    ended = toy.run("cache-teacher", run_dir, "--set", f"data.path={texts}")
    refuse(ended, 3, "source.")
    assert tree(run_dir / "cache") == before
    assert (run_dir / "config.yaml").read_bytes() == config
    assert status(run_dir)["state"] == "failed"


def test_the_same_text_and_teacher_elsewhere_are_the_same(toy: Toy, cached: Path, tmp_path: Path) -> None:
    """Where things lie says nothing about what they are; what is gone is said to be, and the cache stands."""
    moved = ["--set", f"data.path={copy(toy.texts, tmp_path / 'texts')}"]
    moved += ["--set", f"teacher.model={copy(toy.teacher, tmp_path / 'teacher')}"]
    toy.ran("cache-teacher", cached, *moved)
    gone = ["--set", f"data.path={tmp_path / 'gone'}", "--set", f"teacher.model={tmp_path / 'gone'}"]
    assert "cannot be compared" in toy.ran("cache-teacher", cached, *gone).stderr
    toy.ran("cache-teacher", cached)


def test_two_caches_named_where_one_is_meant(toy: Toy, cached: Path, tmp_path: Path) -> None:
    toy.ran("cache-teacher", tmp_path / "other", "--set", "cache.head_size=8", "--set", "data.max_documents=4")
    ended = toy.run("train-student", tmp_path / "run", "--set", f"cache.roots=[{cached}, {tmp_path / 'other'}]")
    refuse(ended, 3, "two different caches", str(tmp_path / "other"))


def test_a_student_with_another_tokenizer(toy: Toy, cached: Path, tmp_path: Path) -> None:
    student = tiny.save_model(tmp_path / "student")
    described = json.loads((student / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = described["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (student / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    options = ["--set", f"cache.roots=[{cached}]", "--set", "student.config=null", "--set", f"student.model={student}"]
    ended = toy.run("train-student", tmp_path / "run", *options)
    refuse(ended, 3, "its tokenizer is not the teacher's", "Differences, teacher -> student")
    nothing_half_written(tmp_path / "run")


def test_a_student_with_too_few_rows(toy: Toy, cached: Path, tmp_path: Path) -> None:
    student = tmp_path / "student"
    tiny.make_model(vocab_size=200, bos_token_id=1, eos_token_id=1, pad_token_id=1).save_pretrained(str(student))
    options = ["--set", f"cache.roots=[{cached}]", "--set", "student.config=null", "--set", f"student.model={student}"]
    refuse(toy.run("train-student", tmp_path / "run", *options), 2, "ids up to 258", "200 rows")


def test_a_student_that_is_too_short(toy: Toy, cached: Path, tmp_path: Path) -> None:
    options = ["--set", f"cache.roots=[{cached}]", "--set", "student.config.max_position_embeddings=16"]
    refuse(toy.run("train-student", tmp_path / "run", *options), 2, "32", "16")


def test_a_student_config_with_a_wrong_key(toy: Toy, cached: Path, tmp_path: Path) -> None:
    options = ["--set", f"cache.roots=[{cached}]", "--set", "student.config.hiden_size=16"]
    refuse(toy.run("train-student", tmp_path / "run", *options), 2, "'hiden_size'", "'hidden_size'")


# ------------------------------------------------------------------ unfinished


def test_stages_that_come_too_early(toy: Toy, cached: Path, tmp_path: Path) -> None:
    refuse(toy.run("train-student", tmp_path / "a"), 6, "no plan.json at any depth", "cache-teacher")
    refuse(toy.run("eval", tmp_path / "b"), 6, "no plan.json at any depth", "cache-teacher")
    ended = toy.run("eval", tmp_path / "c", "--set", f"cache.roots=[{cached}]")
    refuse(ended, 6, "no student yet", "train-student")
    ended = toy.run("train-student", tmp_path / "d", "--set", "train.roots=[/nowhere/at/all]")
    refuse(ended, 6, "cache-teacher")
    options = ["--set", f"cache.roots=[{cached}]", "--set", f"train.roots=[{tmp_path / 'nowhere'}]"]
    refuse(toy.run("train-student", tmp_path / "e", *options), 2, "train.roots", "no such folder")


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


@contextlib.contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[Path]:
    """A file system mounted for the block; skips where this user may not mount."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0 or subprocess.run(["mount", *arguments, str(folder)], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


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
    refuse(ended, 7, "00003.shard: the disk is full")
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


def test_chats_of_which_none_can_be_used(tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    (tmp_path / "chats.jsonl").write_text('{"messages": []}\n{"messages": "no"}\n{"text": "other column"}\n')
    options = ["--set", "data.source=jsonl", "--set", f"data.path={tmp_path / 'chats.jsonl'}"]
    ended = toy.run("cache-teacher", tmp_path / "run", *options, "--set", "data.messages_column=messages")
    refuse(ended, 2, "chats.jsonl", "of 3 read none is usable")
    nothing_half_written(tmp_path / "run")
