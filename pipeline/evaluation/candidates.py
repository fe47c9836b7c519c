"""The models an evaluation sets side by side: the student in its versions, the one it began as, and baselines."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.cache.plan import Plan
from pipeline.console import warn_once
from pipeline.data.tokenizer import Tokenizer
from pipeline.distill.keeping.begun_student import as_begun
from pipeline.distill.keeping.checkpoint import Checkpoint
from pipeline.distill.keeping.student_weights import load_weights
from pipeline.evaluation.references import named, origin_of
from pipeline.evaluation.settings import AS_EXPORTED, AT_THE_START, STUDENT
from pipeline.evaluation.summary import Kind, Measures, ModelRow, Weights
from pipeline.evaluation.trained import Trained
from pipeline.models.causal import CausalModel
from pipeline.models.settings import StudentSettings
from pipeline.models.student import leaks_documents, load_existing, load_student


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model to measure, and what its row of the table says beside the measures."""

    name: str
    kind: Kind
    model: CausalModel
    weights: Weights | None = None
    folder: str | None = None
    step: int | None = None
    num_steps: int | None = None
    training_hash: str | None = None
    leaks_documents: bool = False

    def row(self, measures: Measures) -> ModelRow:
        """Its row of the table."""
        return ModelRow.of(
            measures,
            self.name,
            self.kind,
            self.weights,
            self.folder,
            step=self.step,
            num_steps=self.num_steps,
            training_hash=self.training_hash,
            leaks_documents=self.leaks_documents,
        )


def student_candidates(
    trained: Trained, settings: StudentSettings, tokenizer: Tokenizer, device: torch.device
) -> Iterator[Candidate]:
    """The student as it began, then with its last weights and, where there is one, their average, then as exported if
    that is another step.

    One model is filled with one set of weights after another: use each before asking for the next, and let go of it.
    """
    begun = settings if trained.checkpoint is None else as_begun(settings, trained.checkpoint.state)
    student = load_student(begun, tokenizer, device)
    yield Candidate(name=AT_THE_START, kind="initial", model=student)
    if trained.checkpoint is not None:
        yield from _checkpoint_candidates(trained, trained.checkpoint, student)
    del student
    if trained.model is not None and trained.exported_weights is None:
        gc.collect()  # what is still held would be in the next model's way
        yield Candidate(
            name=AS_EXPORTED,
            kind="student",
            model=load_existing(origin_of(settings, str(trained.model)), tokenizer, device),
            folder=str(trained.model),
            step=trained.exported_step,
            num_steps=trained.num_steps if trained.is_finished else None,
            training_hash=trained.training_hash if trained.is_finished else None,
        )


def baseline_candidates(
    origins: Mapping[str, StudentSettings], plan: Plan, tokenizer: Tokenizer, device: torch.device
) -> Iterator[Candidate]:
    """Models in other folders, with the same tokenizer; one that mixes packed documents is said to."""
    for name, origin in origins.items():
        gc.collect()
        with named(f"eval.baselines.{name}"):
            model = load_existing(origin, tokenizer, device)
            model.check_length(plan.sequence_length)
        leaks = leaks_documents(model, plan.capture["packing"])
        if leaks:
            warn_once(
                f"eval.baselines.{name}: {model.architecture} models let a document see the one before it in a packed "
                "sequence, and this cache is packed: its figures are not those of documents read alone, and are marked"
            )
        yield Candidate(name=name, kind="baseline", model=model, folder=origin.model, leaks_documents=leaks)
        del model


def _checkpoint_candidates(trained: Trained, checkpoint: Checkpoint, student: CausalModel) -> Iterator[Candidate]:
    raw = checkpoint.tensors("weights")
    versions: dict[Weights, dict[str, torch.Tensor]] = {"raw": raw}
    if checkpoint.holds("average"):
        versions["ema"] = raw | checkpoint.tensors("average")
    for weights, tensors in versions.items():
        load_weights(student.model, tensors)
        exported = trained.model if weights == trained.exported_weights else None
        yield Candidate(
            name=STUDENT,
            kind="student",
            model=student,
            weights=weights if len(versions) > 1 else None,
            folder=str(exported or Path(checkpoint.folder)),
            step=checkpoint.step,
            num_steps=trained.num_steps,
            training_hash=trained.training_hash,
        )
