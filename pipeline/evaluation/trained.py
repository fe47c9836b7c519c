"""What a training left in a run: its newest checkpoint, how far that is, and the exported model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.cache import TeacherCache
from pipeline.config import differences
from pipeline.distill.batching.lessons import plan_lessons
from pipeline.distill.guards.early_stopping import Waiting
from pipeline.distill.keeping.begun_student import as_begun
from pipeline.distill.keeping.checkpoint import Checkpoint, newest_checkpoint
from pipeline.distill.keeping.identity import is_of, schedule_identity
from pipeline.distill.settings import TrainSettings
from pipeline.errors import IdentityError, IncompleteInputError
from pipeline.evaluation.summary import Weights
from pipeline.models.settings import StudentSettings
from pipeline.models.student import student_identity
from pipeline.runs import RunDirectory


@dataclass(frozen=True, slots=True)
class Trained:
    """A student on disk; there is a checkpoint, an exported model, or both."""

    checkpoint: Checkpoint | None
    num_steps: int | None  # of the whole training, or where it stopped early; None where nothing here says it
    model: Path | None

    @property
    def training_hash(self) -> str | None:
        """Of the training the checkpoint belongs to."""
        return None if self.checkpoint is None else str(self.checkpoint.state["training_hash"])

    @property
    def is_finished(self) -> bool:
        """Whether the checkpoint is of the last step; only then is the exported model known to be this training's."""
        return self.checkpoint is not None and self.checkpoint.step == self.num_steps

    @property
    def exported_step(self) -> int | None:
        """Of which step the exported weights are; None where that is not known."""
        best = self.checkpoint.state["best"] if self.checkpoint is not None and self.is_finished else None
        return None if best is None else int(best["step"])

    @property
    def exported_weights(self) -> Weights | None:
        """Which of the checkpoint's weights are those of the exported model; None where it is of another step."""
        if self.model is None or self.checkpoint is None or self.exported_step != self.checkpoint.step:
            return None
        return "ema" if self.checkpoint.state["best"]["weights"] == "ema" else "raw"


def find_student(run: RunDirectory, cache: TeacherCache, student: StudentSettings, train: TrainSettings) -> Trained:
    """The student of a run, trained on this cache; IdentityError where it learned from another, or is another.

    Where the run has no checkpoint, that of the configured training counts which lies below train.roots.
    """
    wanted = cache.plan.hash
    checkpoint = newest_checkpoint([run.checkpoints], lambda state: state["training"].get("plan") == wanted)
    if checkpoint is None and (other := newest_checkpoint([run.checkpoints])) is not None:
        raise IdentityError(
            f"{other.folder}: this student was trained from another cache: expected plan {wanted[:16]}, found "
            f"{str(other.state['training'].get('plan'))[:16]}. Name its own cache in cache.roots, or train a student "
            "from this one in a new run directory (--run-dir)."
        )
    model = run.model if run.model.is_dir() else None
    if checkpoint is None:
        own = schedule_identity(cache.plan, train)
        checkpoint = newest_checkpoint(is_wanted=lambda state: is_of(state, own), roots=map(Path, train.roots))
    if checkpoint is None:
        if model is None:
            raise IncompleteInputError(f"{run.student}: no student yet. Run `sad-pipeline train-student` first")
        return Trained(None, None, model)
    training = checkpoint.state["training"]
    _refuse_other_student(checkpoint, training, as_begun(student, checkpoint.state))
    stopped = Waiting.of(checkpoint.state).stopped
    return Trained(checkpoint, checkpoint.step if stopped else _num_steps(training, cache, train), model)


def _refuse_other_student(checkpoint: Checkpoint, training: dict[str, Any], student: StudentSettings) -> None:
    now = student_identity(student)
    if files.canonical_json(training["student"]) != files.canonical_json(now):
        raise IdentityError(
            f"{checkpoint.folder}: was trained from another student than is configured now:\n"
            + "\n".join(differences({"student": training["student"]}, {"student": now}))
            + "\nPut the student section back as it was for train-student."
        )


def _num_steps(training: dict[str, Any], cache: TeacherCache, train: TrainSettings) -> int | None:
    """How many steps a training has: as it was told, or by arithmetic from its epochs."""
    schedule = training["train"]
    if schedule["steps"] is not None:
        return int(schedule["steps"])
    settings = train.model_copy(update={key: value for key, value in schedule.items() if "." not in key})
    try:
        return plan_lessons(cache, settings, training["frozen_shards"]).num_steps
    except IncompleteInputError:  # a part of its shards is not here
        return None
