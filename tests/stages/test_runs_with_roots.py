"""A later session's run: its plan is its own, text, tokenizer and shards lie in a root that its config names."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import datasets
import pytest

from pipeline.cache import TeacherCache
from pipeline.pause import PausedError
from pipeline.runs import RunDirectory
from stages import estimate
from tests.stages.toys import Toy, copy, flip_a_bit, half_sealed, run, stamps, tree


@pytest.fixture
def later(toy: Toy, cached: Path, tmp_path: Path) -> tuple[Path, Path]:
    """(root, run): of nine shards five are sealed in the root, the others in the run."""
    half_sealed(cached, tmp_path / "input" / "first")
    toy.ran("cache-teacher", tmp_path / "run", "--set", f"cache.roots=[{tmp_path / 'input'}]")
    return tmp_path / "input", tmp_path / "run"


def test_it_is_verified_and_looked_into_with_its_roots(later: tuple[Path, Path]) -> None:
    _, run_dir = later
    assert not (run_dir / "cache" / "sequences.shard").exists()
    ended = run("verify", str(run_dir))
    assert (ended.code, "9 of 9 shards are sealed" in ended.stderr) == (0, True), ended.stderr
    ended = run("inspect", str(run_dir), "--json")
    assert ended.code == 0, ended.stderr
    assert json.loads(ended.stdout)["shards"] == {"sealed": 9, "of": 9}
    assert run("repair", str(run_dir)).code == 0


def test_a_training_that_could_not_begin_leaves_its_roots_to_nobody(later: tuple[Path, Path], tmp_path: Path) -> None:
    _, run_dir = later
    config = RunDirectory(run_dir).config
    before, kept, other = config.read_bytes(), tmp_path / "kept.yaml", tmp_path / "other"
    shutil.copy(config, kept)
    other.mkdir()
    ended = run("train-student", "-c", str(kept), "--run-dir", str(run_dir), "--set", f"cache.roots=[{other}]")
    assert ended.code == 6, ended.stderr
    assert config.read_bytes() == before
    ended = run("verify", str(run_dir))
    assert (ended.code, "9 of 9 shards are sealed" in ended.stderr) == (0, True), ended.stderr


def test_a_shard_that_is_damaged_in_a_root_is_passed_over_and_computed_again(
    later: tuple[Path, Path], toy: Toy, cached: Path
) -> None:
    root, run_dir = later
    path = next(root.rglob("00000.shard"))
    flip_a_bit(path)
    mounted = (tree(root), stamps(root))
    ended = run("verify", str(run_dir))
    assert (ended.code, str(path) in ended.stderr) == (4, True)
    assert toy.run("train-student", run_dir, "--set", f"cache.roots=[{root}]").code == 4

    ended = run("repair", str(run_dir))
    assert ended.code == 0, ended.stderr
    assert f"1 damaged shard outside {run_dir} passed over from here on" in ended.stderr
    assert toy.run("train-student", run_dir, "--set", f"cache.roots=[{root}]").code == 6, "it is absent now"
    toy.ran("cache-teacher", run_dir, "--set", f"cache.roots=[{root}]")
    again = run_dir / "cache" / "shards" / "00000.shard"
    assert again.read_bytes() == (cached / "cache" / "shards" / "00000.shard").read_bytes()
    ended = run("verify", str(run_dir))
    assert ended.code == 0, ended.stderr
    assert f"note: {path}: is damaged, and passed over" in ended.stderr
    toy.ran("train-student", run_dir, "--set", f"cache.roots=[{root}]", "--set", "train.steps=2")
    assert (tree(root), stamps(root)) == mounted


def test_a_report_is_drawn_where_the_roots_are_not(later: tuple[Path, Path], tmp_path: Path) -> None:
    """As of an output that was downloaded."""
    root, run_dir = later
    shutil.move(root, tmp_path / "elsewhere")
    ended = run("report", str(run_dir))
    assert ended.code == 0, ended.stderr
    assert f"{root}: is a root of this run and not here" in ended.stderr.replace("\n", " ")
    page = (run_dir / "report" / "report.html").read_text(encoding="utf-8")
    assert "4 of 9" in page


def test_a_config_that_cannot_be_read_keeps_nobody_from_verifying(cached: Path, tmp_path: Path) -> None:
    run_dir = copy(cached, tmp_path / "run")
    RunDirectory(run_dir).config.write_text("cache: {kind: other}\n", encoding="utf-8")
    ended = run("verify", str(run_dir))
    assert ended.code == 0, ended.stderr
    assert "name them with --root" in ended.stderr.replace("\n", " ")


def test_it_is_evaluated_with_the_roots_it_was_trained_with(toy: Toy, later: tuple[Path, Path]) -> None:
    """A cache that was complete before lies in the root alone, its validation shards too."""
    root, run_dir = later
    shutil.copytree(run_dir / "cache", root / "second")
    shutil.rmtree(run_dir / "cache")
    toy.ran("train-student", run_dir, "--set", f"cache.roots=[{root}]")
    toy.ran("eval", run_dir)
    assert (run_dir / "eval" / "eval.json").is_file()


def test_shards_in_roots_take_no_room_of_this_run(toy: Toy, later: tuple[Path, Path], cached: Path) -> None:
    root, run_dir = later
    ended = toy.ran("estimate", run_dir, "--json", "--set", f"cache.roots=[{root}]")
    capture = json.loads(ended.stdout)["capture"]
    there = sum(path.stat().st_size for path in root.rglob("*.shard"))
    here = sum(path.stat().st_size for path in run_dir.rglob("*.shard"))
    assert (capture["elsewhere_bytes"], capture["cache_bytes"]) == (there, there + here)
    # Of so little room the whole cache would take more, and what is here takes less.
    gigabytes = (there + here) / 2 / 1e9
    assert here < gigabytes * 1e9 < there + here
    words = ("estimate", run_dir, "--gb", f"{gigabytes:.9f}", "--json", "--set", f"cache.roots=[{root}]")
    value = json.loads(toy.ran(*words).stdout)
    assert value["disk"]["fits"] is True
    assert value["run_bytes"] < there + value["training"]["checkpoints_bytes"] + value["training"]["model_bytes"]


def test_a_folder_that_is_a_link_is_said_and_not_followed(cached: Path, tmp_path: Path) -> None:
    copy(cached, tmp_path / "disk" / "first")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "1").symlink_to(tmp_path / "disk" / "first")
    ended = run("inspect", str(tmp_path / "parts"))
    assert ended.code == 6
    words = f"{tmp_path / 'parts' / '1'}: is a link to a folder, and not followed"
    assert words in ended.stderr.replace("\n", " ")


def test_so_is_one_where_checkpoints_are_looked_for(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "1").symlink_to(trained)
    roots = ("--set", f"cache.roots=[{cached}]", "--set", f"train.roots=[{tmp_path / 'parts'}]")
    ended = toy.ran("train-student", tmp_path / "run", *roots, "--set", "train.steps=1")
    words = f"{tmp_path / 'parts' / '1'}: is a link to a folder, and not followed"
    assert words in ended.stderr.replace("\n", " ")


def test_a_data_set_in_a_folder_may_lie_elsewhere_later(toy: Toy, tmp_path: Path) -> None:
    """A host mounts it where it likes; what is in it is what counts."""

    def named(place: str) -> tuple[str, ...]:
        return "--set", "data.source=hub", "--set", f"data.dataset={tmp_path / place}"

    rows = [{"text": path.read_text(encoding="utf-8")} for path in sorted(toy.texts.iterdir())]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "first"))
    datasets.Dataset.from_list(rows[1:]).save_to_disk(str(tmp_path / "other"))
    toy.ran("cache-teacher", tmp_path / "run", *named("first"))
    (tmp_path / "deeper").mkdir()
    (tmp_path / "first").rename(tmp_path / "deeper" / "texts")
    toy.ran("cache-teacher", tmp_path / "run", *named("deeper/texts"))
    toy.ran("train-student", tmp_path / "run", *named("deeper/texts"), "--set", "train.steps=1")
    ended = toy.run("cache-teacher", tmp_path / "run", *named("other"))
    assert (ended.code, "source." in ended.stderr) == (3, True), ended.stderr


def test_text_and_packed_sequences_are_taken_from_the_root_that_has_them_whole(
    toy: Toy, cached: Path, tmp_path: Path
) -> None:
    first, second = copy(cached, tmp_path / "first"), copy(cached, tmp_path / "second")
    flip_a_bit(first / "cache" / "sequences.shard")
    roots = ("--set", f"cache.roots=[{first}, {second}]", "--set", "train.steps=1")
    toy.ran("train-student", tmp_path / "run", *roots)
    ended = run("verify", str(tmp_path / "run"), "--root", str(first), "--root", str(second))
    assert ended.code == 4
    assert str(first / "cache" / "sequences.shard") in ended.stderr.replace("\n", "")


def test_a_home_folder_may_be_written_as_in_a_shell(
    toy: Toy, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every place that names a folder, the teacher's tokenizer included."""
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(toy.teacher, tmp_path / "teacher")
    shutil.copytree(toy.texts, tmp_path / "texts")
    copy(cached, tmp_path / "first")
    places = ("teacher.model=~/teacher", "data.path=~/texts", "cache.roots=['~/first']")
    ended = toy.run("cache-teacher", tmp_path / "run", *(word for place in places for word in ("--set", place)))
    assert ended.code == 0, ended.stderr
    assert TeacherCache.open(tmp_path / "run", tmp_path / "first").complete
    assert not list((tmp_path / "run").rglob("*.shard"))


def test_a_name_of_a_file_that_is_no_text_does_not_end_a_report(toy: Toy, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    shutil.copytree(toy.texts, texts)
    with open(os.fsencode(texts) + b"/caf\xe9.txt", "wb") as file:
        file.write(b"\xff\xfe\xfa")
    toy.ran("cache-teacher", tmp_path / "run", "--set", f"data.path={texts}")
    ended = run("report", str(tmp_path / "run"))
    assert ended.code == 0, ended.stderr
    assert "caf\\udce9.txt" in (tmp_path / "run" / "report" / "report.html").read_text(encoding="utf-8")


def test_a_full_card_is_told_by_an_estimate(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has nothing to pause."""

    def full(*_: object) -> None:
        raise PausedError("the card's memory ran out twice in a row")

    monkeypatch.setattr(estimate, "price_new_cache", full)
    ended = toy.run("estimate", tmp_path / "run")
    assert (ended.code, "ran out twice" in ended.stderr) == (5, True)
