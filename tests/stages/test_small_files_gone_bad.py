"""Small files that a stage keeps for itself and that are no JSON any more: what to do about them is said."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import DamagedDataError
from stages import prepare_teacher, quality_trainings

TRIAL: Any = None
FILES: dict[str, tuple[Callable[[Any], object], str]] = {
    "recipe.json": (lambda folder: prepare_teacher._was_made_by({}, folder), "which makes a teacher where none"),
    "chosen.json": (lambda folder: quality_trainings.train(_ground(folder), TRIAL), "which does this training once"),
    "measured.json": (lambda folder: quality_trainings.measure(_ground(folder), TRIAL), "which measures this"),
}


def _ground(folder: Path) -> Any:
    return SimpleNamespace(root=folder, held_out=SimpleNamespace(tolist=list))


@pytest.mark.parametrize("name", FILES)
def test_it_is_said_what_to_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality_trainings, "trial_run", lambda ground, trial: ground)
    monkeypatch.setattr(quality_trainings, "trial_config", lambda ground, trial: None)
    monkeypatch.setattr(quality_trainings, "_identity", lambda ground, trial, config: {})
    (tmp_path / name).write_text('{"cut": ')
    read, what = FILES[name]
    removed = re.escape(str(tmp_path)) if name == "chosen.json" else "it"  # the student beside it, too
    with pytest.raises(
        DamagedDataError, match=rf"{name}: is not .*\. Remove {removed} and run the same command again, {what}"
    ):
        read(tmp_path)
