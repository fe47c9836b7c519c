"""From trainings to figures: every arm beside full distillation, labels only and the default, paired by seed.

gain share        ( labels − arm ) / ( labels − full )      of the KL to the teacher; of CE: ce_gain_share
perplexity lost   exp( CE_arm − CE_full ) − 1               with the difference capped as perplexities are
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from pipeline.distill.guards.perplexity import CAP_NATS
from pipeline.evaluation.study.foreign import fields_of, number_of, object_of, text_of, truth_of
from pipeline.evaluation.study.statistics import Interval, mean_interval, ratio_interval

LABELS, FULL, DEFAULT = "labels", "full", "default"


@dataclass(frozen=True, slots=True)
class Measured:
    """A student on held-out text that chose nothing: mean nats a scored position."""

    ce_nats: float
    kl_nats: float
    """to the teacher, over the full vocabulary, at τ = 1"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one arm came to."""

    arm: str
    candidate: str
    learning_rate: float
    at_an_edge: bool
    """whether the best rate is the lowest or the highest of those tried: a better one may lie beyond"""
    students: Mapping[int, Measured]
    """by seed"""
    bytes_per_token: float | None
    """of its cache; None where it reads none"""
    gradients: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """student it was taken at -> degrees to full distillation's gradient, and norm beside it"""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """config key -> what it is here, where it is not as in the default"""

    @property
    def has_own_cache(self) -> bool:
        """Whether it learns from another cache than the default."""
        return any(key.startswith("cache.") for key in self.changes)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; nothing in it depends on the clock or on how often the study was stopped."""
        students = {str(seed): {"ce_nats": m.ce_nats, "kl_nats": m.kl_nats} for seed, m in self.students.items()}
        return {
            "arm": self.arm,
            "candidate": self.candidate,
            "learning_rate": self.learning_rate,
            "at_an_edge": self.at_an_edge,
            "students": students,
            "bytes_per_token": self.bytes_per_token,
            "gradients": {name: list(pair) for name, pair in self.gradients.items()},
            "changes": dict(self.changes),
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read back what `to_json` gave; ValueError for anything else, with what and where."""
        parts = fields_of(value, "a finding", cls)
        name = text_of(parts["arm"], "arm")
        where = f"arm {name!r}: "
        size = parts["bytes_per_token"]
        return cls(
            arm=name,
            candidate=text_of(parts["candidate"], f"{where}candidate", empty=True),
            learning_rate=number_of(parts["learning_rate"], f"{where}learning_rate", above=0.0),
            at_an_edge=truth_of(parts["at_an_edge"], f"{where}at_an_edge"),
            students=_students_of(parts["students"], f"{where}students"),
            bytes_per_token=None if size is None else number_of(size, f"{where}bytes_per_token", above=0.0),
            gradients=_gradients_of(parts["gradients"], f"{where}gradients"),
            changes=object_of(parts["changes"], f"{where}changes"),
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm beside the others, over the seeds it shares with them; None where there is nothing to compare with."""

    kl_nats: Interval
    ce_nats: Interval
    kl_gain_share: Interval | None
    ce_gain_share: Interval | None
    perplexity_lost: Interval | None
    """percent, beside full distillation"""
    kl_vs_default: Interval | None
    ce_vs_default: Interval | None


def compare(finding: Finding, findings: Mapping[str, Finding]) -> Comparison:
    """Set one arm of a study beside the others of it."""
    labels, full, default = (findings.get(name) for name in (LABELS, FULL, DEFAULT))
    own = finding.students.values()
    lost = _difference(finding, full, "ce_nats")
    return Comparison(
        kl_nats=mean_interval([student.kl_nats for student in own]),
        ce_nats=mean_interval([student.ce_nats for student in own]),
        kl_gain_share=_gain_share(finding, labels, full, "kl_nats"),
        ce_gain_share=_gain_share(finding, labels, full, "ce_nats"),
        perplexity_lost=None if lost is None else _each(lost, lambda nats: 100.0 * math.expm1(min(nats, CAP_NATS))),
        kl_vs_default=_difference(finding, default, "kl_nats"),
        ce_vs_default=_difference(finding, default, "ce_nats"),
    )


def _students_of(value: Any, where: str) -> dict[int, Measured]:
    students = {}
    for seed, student in object_of(value, where).items():
        if not re.fullmatch(r"0|[1-9]\d{0,17}", seed, re.ASCII):
            raise ValueError(f"{where}: expected seeds, found {seed!r}")
        parts = fields_of(student, f"{where}, seed {seed}", Measured)
        numbers = {name: number_of(part, f"{where}, seed {seed}, {name}") for name, part in parts.items()}
        students[int(seed)] = Measured(**numbers)
    if not students:
        raise ValueError(f"{where}: expected at least one, found none")
    return students


def _gradients_of(value: Any, where: str) -> dict[str, tuple[float, float]]:
    gradients = {}
    for name, pair in object_of(value, where).items():
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(f"{where}, {name}: expected degrees and a norm, found {pair!r}")
        degrees, norm = (number_of(number, f"{where}, {name}") for number in pair)
        gradients[name] = (degrees, norm)
    return gradients


def _values(finding: Finding, measure: str, seeds: list[int]) -> list[float]:
    return [float(getattr(finding.students[seed], measure)) for seed in seeds]


def _shared(*findings: Finding) -> list[int]:
    return sorted(set.intersection(*(set(finding.students) for finding in findings)))


def _difference(finding: Finding, other: Finding | None, measure: str) -> Interval | None:
    """This arm less the other, seed by seed."""
    if other is None or not (seeds := _shared(finding, other)):
        return None
    pairs = zip(_values(finding, measure, seeds), _values(other, measure, seeds), strict=True)
    return mean_interval([own - others for own, others in pairs])


def _gain_share(finding: Finding, labels: Finding | None, full: Finding | None, measure: str) -> Interval | None:
    if labels is None or full is None or not (seeds := _shared(finding, labels, full)):
        return None
    base = _values(labels, measure, seeds)
    gains = [
        [start - end for start, end in zip(base, _values(side, measure, seeds), strict=True)]
        for side in (finding, full)
    ]
    return ratio_interval(*gains)


def _each(interval: Interval, function: Any) -> Interval:
    """A rising function of the mean and of both ends."""
    ends = (None if end is None else function(end) for end in (interval.low, interval.high))
    return Interval(function(interval.mean), *ends)
