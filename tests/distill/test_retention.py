"""Which checkpoints are kept: the two newest valid ones and the best weights, and none goes before the next is sure."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline import files
from pipeline.distill.keeping import checkpoint as checkpoint_module
from pipeline.distill.keeping.checkpoint import newest_checkpoint, open_checkpoint, retire_best, retire_checkpoints
from pipeline.distill.keeping.verify import verify_student
from pipeline.errors import DamagedDataError, IdentityError
from tests.distill.small_checkpoints import names, save
from tests.stages.toys import Toy, flip_a_bit, make_toy
from tests.stages.trainings import metrics

# ------------------------------------------------------------------ which are kept


def test_the_two_newest_and_the_best_they_refer_to(tmp_path: Path) -> None:
    for step, best in ((4, None), (8, 6), (12, 6), (16, 14)):
        save(tmp_path, step, best)
    for step in (2, 6, 14):
        save(tmp_path, step, prefix="best")
    retire_checkpoints(tmp_path, 16, 14)
    assert names(tmp_path) == ["b14", "b6", "s12", "s16"]


def test_a_damaged_one_is_not_one_of_the_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (4, 8, 12):
        save(tmp_path, step)
    flip_a_bit(tmp_path / "step-00000008" / "weights.safetensors")
    retire_checkpoints(tmp_path, 12, None)
    assert names(tmp_path) == ["s12", "s4"]
    assert "checkpoint removed, there are newer ones: " in capsys.readouterr().err


def test_one_whose_state_nothing_vouches_for_does_not_count(tmp_path: Path) -> None:
    commit = save(tmp_path, 4) / "COMMIT.json"
    listed = json.loads(commit.read_bytes())
    del listed["state.json"]
    commit.write_text(json.dumps(listed), encoding="utf-8")
    with pytest.raises(DamagedDataError, match=r"COMMIT\.json: does not list state\.json"):
        open_checkpoint(commit.parent)


def test_one_that_was_read_before_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [save(tmp_path, step) for step in (4, 8, 12)]
    monkeypatch.setattr(checkpoint_module, "open_checkpoint", lambda folder: 1 / 0)
    retire_checkpoints(tmp_path, 12, None, {folders[1]})
    assert names(tmp_path) == ["s12", "s8"]


def test_what_is_unfinished_or_beyond_goes(tmp_path: Path) -> None:
    for step in (4, 8, 12, 20):
        save(tmp_path, step)
    (tmp_path / "step-00000008" / "COMMIT.json").unlink()
    retire_checkpoints(tmp_path, 12, None)
    assert names(tmp_path) == ["s12", "s4"]


def test_what_another_version_wrote_is_left_to_it(tmp_path: Path) -> None:
    for step in (4, 8):
        save(tmp_path, step)
    state_path, commit_path = (tmp_path / "step-00000004" / name for name in ("state.json", "COMMIT.json"))
    digest = files.write_json(state_path, json.loads(state_path.read_text()) | {"format": 99})
    commit = json.loads(commit_path.read_text())
    commit["state.json"] = {"size_bytes": digest.size_bytes, "xxh3_128": digest.xxh3_128}
    files.write_json(commit_path, commit)
    with pytest.raises(IdentityError, match=r"checkpoint format 99, this version reads 1\. Continue it with"):
        open_checkpoint(state_path.parent)
    retire_checkpoints(tmp_path, 8, None)
    assert names(tmp_path) == ["s4", "s8"]


def test_what_cannot_be_read_today_may_refer_to_any_best_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [save(tmp_path, 4, 2), save(tmp_path, 8, 6)]
    for step in (2, 6):
        save(tmp_path, step, prefix="best")
    real = files.read_json

    def failing(path: Path, *more: int) -> dict[str, Any]:
        if path.parent == folders[0]:
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *more)

    with monkeypatch.context() as patch:
        patch.setattr(files, "read_json", failing)
        retire_best(tmp_path, 6)
    assert names(tmp_path) == ["b2", "b6", "s4", "s8"]
    (folders[0] / "state.json").unlink()  # never finished: it refers to nothing
    retire_best(tmp_path, 6)
    assert names(tmp_path) == ["b6", "s4", "s8"]


def test_better_weights_replace_those_that_nothing_refers_to(tmp_path: Path) -> None:
    save(tmp_path, 4, best=3)
    for step in (3, 5, 6):
        save(tmp_path, step, prefix="best")
        retire_best(tmp_path, step)
    assert names(tmp_path) == ["b3", "b6", "s4"]


# ------------------------------------------------------------------ none goes before the next is sure


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> tuple[Toy, Path]:
    """A toy and the folder of its cache."""
    folder = tmp_path_factory.mktemp("ground")
    toy = make_toy(folder / "toy")
    toy.ran("cache-teacher", folder / "cached")
    return toy, folder / "cached"


def held_before_each_removal(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, set[str]]]:
    """Name of each folder that is removed, and which valid ones there were beside it."""
    removed: list[tuple[str, set[str]]] = []
    real = checkpoint_module._remove

    def watched(path: Path) -> None:
        valid = set()
        for other in path.parent.iterdir():
            if other != path:
                open_checkpoint(other)  # raises where one is not whole
                valid.add(other.name)
        removed.append((path.name, valid))
        real(path)

    monkeypatch.setattr(checkpoint_module, "_remove", watched)
    return removed


def test_a_training_never_holds_less_than_it_may_need(
    ground: tuple[Toy, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validated after each step and saved after every fourth: best weights do not pile up between two saves."""
    toy, cached = ground
    removed, most = held_before_each_removal(monkeypatch), 0
    real = checkpoint_module.save_checkpoint

    def counted(folder: Path, *rest: Any) -> Any:
        nonlocal most
        saved = real(folder, *rest)
        most = max(most, len([name for name in names(folder) if name.startswith("b")]))
        return saved

    monkeypatch.setattr("pipeline.distill.journal.save_checkpoint", counted)
    options = ["--set", "train.evaluate_every=1", "--set", "train.steps=16"]
    toy.ran("train-student", tmp_path / "run", "--set", f"cache.roots=[{cached}]", *options)
    lowest, improved = float("inf"), 0
    for line in metrics(tmp_path / "run"):
        if line["kind"] == "validation" and line["ce"] < lowest:
            lowest, improved = line["ce"], improved + 1
    assert improved > 8, "there were many best weights"
    assert most <= 4, "those of two checkpoints, the last ones, and those that replace them"
    assert [name for name, _ in removed if name.startswith("step")] == ["step-00000004", "step-00000008"]
    for name, valid in removed:
        steps = sorted(other for other in valid if other.startswith("step"))
        assert name.startswith("best") or (len(steps) == 2 and steps[-1] > name)
        assert any(other.startswith("best") for other in valid)


@pytest.mark.parametrize("prefix", ["step-00000012", "best"])
def test_one_that_does_not_read_back_costs_no_other(
    prefix: str, ground: tuple[Toy, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk gives back other bytes than were written: the training ends, and what was there before stays."""
    toy, cached = ground
    run_dir, roots = tmp_path / "run", ["--set", f"cache.roots=[{cached}]", "--set", "train.evaluate_every=4"]
    real = checkpoint_module.open_checkpoint
    removed = held_before_each_removal(monkeypatch)

    def rotten(folder: Path) -> Any:
        if folder.name.startswith(prefix) and folder.name.endswith("12"):
            flip_a_bit(folder / "weights.safetensors")
        return real(folder)

    monkeypatch.setattr(checkpoint_module, "open_checkpoint", rotten)
    ended = toy.run("train-student", run_dir, *roots)
    assert ended.code == DamagedDataError.exit_code
    assert "differs from COMMIT.json. It was written just now: the disk is not to be trusted. Copy the " in ended.stderr
    assert {"s4", "s8"} <= set(names(run_dir / "student" / "checkpoints"))
    assert "step-00000004" not in [name for name, _ in removed]


def test_a_renamed_copy_is_somebodys_own(tmp_path: Path) -> None:
    """Whatever it is called: it is not gone on from, and nothing newer goes for it."""
    folder = tmp_path / "student" / "checkpoints"
    for step in (2, 4):
        save(folder, step)
    shutil.copytree(folder / "step-00000002", folder / "step-keep")
    newest = newest_checkpoint([folder])
    assert newest is not None
    assert (newest.step, newest_checkpoint(roots=[tmp_path])) == (4, newest)
    retire_checkpoints(folder, 4, None)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000002", "step-00000004", "step-keep"]
    (folder / "step-keep" / "weights.safetensors").write_bytes(b"")
    assert verify_student(tmp_path / "student") == []
