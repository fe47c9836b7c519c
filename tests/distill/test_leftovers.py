"""What goes before a start: what was never finished, and one more than are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.distill.keeping import checkpoint as checkpoint_module
from pipeline.distill.keeping.checkpoint import open_checkpoint, retire_leftovers
from tests.distill.small_checkpoints import names, save
from tests.stages.toys import flip_a_bit


def left_after(folder: Path, newest: Path | None, all_good: bool = True) -> list[str]:
    """What is there once leftovers are gone."""
    retire_leftovers(folder, None if newest is None else open_checkpoint(newest), all_good)
    return names(folder)


def test_what_was_never_finished_goes_before_a_start(tmp_path: Path) -> None:
    folders = {step: save(tmp_path, step, best) for step, best in ((8, 6), (12, 12), (16, 16))}
    for step in (6, 12, 16):
        folders[-step] = save(tmp_path, step, prefix="best")
    for folder in (folders[16], folders[-16]):
        (folder / "COMMIT.json").unlink()
    assert left_after(tmp_path, folders[12]) == ["b12", "b6", "s12", "s8"]


@pytest.mark.parametrize(("all_good", "expected"), [(True, ["b12", "b8", "s12", "s8"]), (False, None)])
def test_one_more_than_are_kept_goes_before_a_start(all_good: bool, expected: list[str] | None, tmp_path: Path) -> None:
    """With the best weights that it alone refers to; in the middle of skipped steps it may be needed."""
    for step in (4, 8, 12):
        save(tmp_path, step, best=step)
        save(tmp_path, step, prefix="best")
    before = names(tmp_path)
    assert left_after(tmp_path, tmp_path / "step-00000012", all_good) == (expected or before)


def test_two_valid_ones_stay_before_a_start(tmp_path: Path) -> None:
    for step in (4, 8, 12):
        save(tmp_path, step)
    flip_a_bit(tmp_path / "step-00000008" / "weights.safetensors")
    assert left_after(tmp_path, tmp_path / "step-00000012") == ["s12", "s4"]


def test_what_may_be_needed_stays_before_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One beyond that was passed over, the best weights after the last checkpoint; and nothing is read in vain."""
    newest = save(tmp_path / "root", 8, best=6)
    for step in (4, 8, 12):
        save(tmp_path / "own", step, best=6)
    flip_a_bit(tmp_path / "own" / "step-00000012" / "weights.safetensors")
    for step in (6, 10):
        save(tmp_path / "own", step, prefix="best")
    before, opened = names(tmp_path / "own"), open_checkpoint(newest)
    monkeypatch.setattr(checkpoint_module, "open_checkpoint", lambda folder: 1 / 0)
    retire_leftovers(tmp_path / "own", opened, all_good=True)
    retire_leftovers(tmp_path / "own", None, all_good=True)
    retire_leftovers(tmp_path / "nowhere", opened, all_good=True)
    assert (names(tmp_path / "own"), names(tmp_path / "root")) == (before, ["s8"])


def test_of_a_training_that_has_no_checkpoint_yet_nothing_is_needed(tmp_path: Path) -> None:
    (save(tmp_path, 4, best=4) / "COMMIT.json").unlink()
    save(tmp_path, 4, prefix="best")
    assert left_after(tmp_path, None) == []
