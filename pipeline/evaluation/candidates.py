"""The models an evaluation sets side by side: the student in its versions, the one it began as, and baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.data.tokenizer import Tokenizer
from pipeline.distill.checkpoint import Checkpoint, newest_checkpoint
from pipeline.distill.learner import load_weights
from pipeline.errors import IncompleteInputError
from pipeline.evaluation.summary import Kind, Weights
from pipeline.models.causal import CausalModel
from pipeline.models.settings import StudentSettings
from pipeline.models.student import load_student
from pipeline.runs import RunDirectory


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model to measure, and how it is named in the table."""

    name: str
    kind: Kind
    model: CausalModel
    weights: Weights | None = None
    folder: str | None = None


def student_candidates(
    run: RunDirectory, settings: StudentSettings, tokenizer: Tokenizer, device: torch.device
) -> Iterator[Candidate]:
    """The student as it began, then with its last raw and averaged weights, then as exported if that is another step.

    One model is filled with one set of weights after another: use each before asking for the next.
    """
    checkpoint = newest_checkpoint([run.checkpoints])
    if checkpoint is None and not run.model.is_dir():
        raise IncompleteInputError(f"{run.student}: no student yet. Run `sad-pipeline train-student` first")
    student = load_student(settings, tokenizer, device)
    yield Candidate("student at the start", "initial", student)
    exported = _exported_weights(checkpoint)
    if checkpoint is not None:
        yield from _checkpoint_candidates(checkpoint, student, run, exported)
    if run.model.is_dir() and exported is None:
        model = load_student(settings.model_copy(update=_ORIGIN | {"model": str(run.model)}), tokenizer, device)
        yield Candidate("student, as exported", "student", model, folder=str(run.model))


def baseline_candidates(
    baselines: Mapping[str, str], settings: StudentSettings, tokenizer: Tokenizer, device: torch.device
) -> Iterator[Candidate]:
    """Models in other folders, with the same tokenizer."""
    for name, folder in baselines.items():
        origin = settings.model_copy(update=_ORIGIN | {"model": folder})
        yield Candidate(name, "baseline", load_student(origin, tokenizer, device), folder=folder)


_ORIGIN = {"config": None, "revision": None}


def _checkpoint_candidates(
    checkpoint: Checkpoint, student: CausalModel, run: RunDirectory, exported: Weights | None
) -> Iterator[Candidate]:
    raw = checkpoint.tensors("weights")
    versions: dict[Weights, dict[str, torch.Tensor]] = {"raw": raw}
    if checkpoint.holds("average"):
        versions["ema"] = raw | checkpoint.tensors("average")
    for weights, tensors in versions.items():
        load_weights(student.model, tensors)
        folder = str(run.model if weights == exported and run.model.is_dir() else Path(checkpoint.folder))
        yield Candidate("student", "student", student, weights, folder)


def _exported_weights(checkpoint: Checkpoint | None) -> Weights | None:
    """Which of the last weights are those in student/model; None where these are of an earlier step."""
    best = checkpoint.state["best"] if checkpoint is not None else None
    if checkpoint is None or best is None or best["step"] != checkpoint.step:
        return None
    return "ema" if best["weights"] == "ema" else "raw"
