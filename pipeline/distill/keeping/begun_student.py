"""Which commit of a hub id a student began as: its training keeps to it, whatever is uploaded there meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.cache.plan import Plan
from pipeline.distill.keeping.checkpoint import newest_checkpoint
from pipeline.distill.keeping.identity import is_of, schedule_identity
from pipeline.distill.settings import TrainSettings
from pipeline.models.settings import StudentSettings
from pipeline.models.source import hub_commit, is_hub_id


def begun_student(
    student: StudentSettings, plan: Plan, train: TrainSettings, folders: Iterable[Path]
) -> StudentSettings:
    """The settings with the commit that this training began with: of its checkpoints in `folders`, else of now.

    A revision that they name goes before what checkpoints say. ConfigError where the hub is asked and does not answer.
    """
    if student.model is None or not is_hub_id(student.model):
        return student
    own = schedule_identity(plan, train)

    def is_own(state: dict[str, Any]) -> bool:
        return as_begun(student, state) != student and is_of(state, own)

    # Whoever goes on from it reads its weights: here they need not be hashed too.
    if (newest := newest_checkpoint((), is_own, roots=folders, whole=False)) is not None:
        return as_begun(student, newest.state)
    commit = hub_commit(student.model, student.revision)
    return student if commit is None else student.model_copy(update={"revision": commit})


def as_begun(student: StudentSettings, state: Mapping[str, Any]) -> StudentSettings:
    """The settings with the commit that a checkpoint's state names, where they name the same hub id and no revision."""
    hub = state.get("student_hub")
    if hub is None or student.revision is not None or hub["model"] != student.model:
        return student
    return student.model_copy(update={"revision": hub["revision"]})


def hub_of(student: StudentSettings) -> dict[str, str] | None:
    """The hub id and the commit of a student, as the state of a checkpoint keeps them; None for any other student."""
    commit = None if student.model is None else hub_commit(student.model, student.revision)
    return None if student.model is None or commit is None else {"model": student.model, "revision": commit}
