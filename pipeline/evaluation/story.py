"""Everything the report tells of a run; what a run does not have yet is None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.data.report import DataReport
from pipeline.evaluation.cache_facts import CacheFacts
from pipeline.evaluation.history import Standing, TrainingHistory
from pipeline.evaluation.study.results import StudyResult
from pipeline.evaluation.summary import EvalResult
from pipeline.runs import stages_of


@dataclass(frozen=True, slots=True)
class Story:
    """A run as its files tell it."""

    name: str
    run_dir: str
    config: Mapping[str, Any]  # as config.yaml holds it; empty where there is none
    config_text: str
    status: Mapping[str, Any]  # as status.json holds it; empty where there is none
    cache: CacheFacts | None = None
    data: DataReport | None = None
    training: TrainingHistory | None = None
    standing: Standing | None = None
    evaluation: EvalResult | None = None
    studies: tuple[StudyResult, ...] = ()  # of which way of distilling helps
    study_begun: bool = False  # whether there is one, with or without figures
    study_configs: Mapping[str, str] = field(default_factory=dict)  # what it works with -> that as text
    compare: Mapping[str, TrainingHistory] = field(default_factory=dict)  # further trainings, by name
    compare_dirs: Mapping[str, str] = field(default_factory=dict)  # and their run directories

    def setting(self, *keys: str) -> Any:
        """A value of the configuration, or None."""
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    @property
    def is_study_alone(self) -> bool:
        """Whether a study is all that is here."""
        return self.study_begun and not (self.cache or self.training or self.evaluation or self.config_text)

    def num_steps(self) -> int | None:
        """Of the whole training, from whoever knows: its last outcome, the evaluation, the configuration."""
        progress = stages_of(self.status).get("train-student", {}).get("progress") or {}
        student = self.evaluation.last_student() if self.evaluation else None
        if student is not None and self.standing and student.training_hash != self.standing.training_hash:
            student = None
        known = progress.get("of") or (student and student.num_steps) or self.setting("train", "steps")
        return int(known) if known else None

    def subtitle(self) -> str:
        """Teacher, student and text in one line."""
        teacher = self.setting("teacher", "model")
        student = self.setting("student", "model") or self.setting("student", "config", "model_type")
        place = self.setting("data", "dataset") or self.setting("data", "path") or self.setting("data", "source")
        parts = [("Teacher", teacher), ("student", student), ("text", place and place_name(str(place)))]
        return "  ·  ".join(f"{word}: {value}" for word, value in parts if value)


def place_name(place: str) -> str:
    """Where a text came from, for people."""
    return "the Python standard library" if place == "stdlib" else place
