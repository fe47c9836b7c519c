"""Checking every byte that a training left in a run: checkpoints, best weights, the exported model, the log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.cache.verify import Problem
from pipeline.commits import COMMIT, check_commit
from pipeline.console import say
from pipeline.distill.keeping.checkpoint import Checkpoint, open_checkpoint
from pipeline.distill.keeping.metrics_log import METRICS, what_differs
from pipeline.errors import DamagedDataError, IdentityError

_FIXES = {
    "step": "train-student passes it over, and goes on from another one",
    "best": "train-student chooses the best weights anew, from where it goes on",
}


def verify_student(student: Path) -> list[Problem]:
    """Everything wrong in the folder `student` of a run; empty where every byte is as it was written.

    What a stopped run left unfinished is no problem.
    """
    problems, newest = [], None
    for path in sorted((student / "checkpoints").glob("*-*")):
        prefix, _, step = path.name.partition("-")
        if prefix not in _FIXES or not step.isdecimal():  # a renamed copy is somebody's own
            continue
        if not (path / COMMIT).is_file():
            say(f"note: {path}: has no {COMMIT}, so it counts as absent")
            continue
        try:
            checkpoint = open_checkpoint(path)
        except IdentityError as error:
            problems.append(Problem.advised(path, error))
        except DamagedDataError as error:
            problems.append(Problem.of(path, error, _FIXES[prefix]))
        else:
            newest = checkpoint if prefix == "step" else newest
    return [*problems, *_of_model(student / "model"), *_of_log(student / METRICS, newest)]


def _of_model(folder: Path) -> Iterator[Problem]:
    if not folder.is_dir():
        return
    if not (folder / COMMIT).is_file():
        say(f"note: {folder}: has no {COMMIT} to check it against")
        return
    try:
        check_commit(folder)
    except DamagedDataError as error:
        yield Problem.of(folder, error, "train-student exports it anew")


def _of_log(path: Path, newest: Checkpoint | None) -> Iterator[Problem]:
    """What was logged up to the newest checkpoint."""
    logged = None if newest is None else newest.state.get("log")
    if logged is not None and (what := what_differs(path, logged)) is not None:
        yield Problem(path, what, "The report draws it as it is; training reads none of it")
