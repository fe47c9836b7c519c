"""How long a study will take, from what a position of each kind of training took one core of one machine."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.benches.quality.arms import BEGINNING, Arm
from pipeline.benches.quality.plan import Study, beginnings
from pipeline.evaluation.study.findings import LABELS

_VOCAB = 4096  # at which the figures were taken, with the bundled config's models
_MICROSECONDS = {"labels": 38.0, "cached": 55.0, "live": 200.0}  # of training, a position
_OUTSIDE_SECONDS = 6.0  # of a training: loading, validation, export, measuring beside the teacher


def expected_seconds(studies: Sequence[Study], step_positions: int, num_workers: int = 1) -> float:
    """Of all trainings, each study with its vocabulary; the head's work grows with that."""
    seconds = 0.0
    for vocab_size, beginning in beginnings(studies):
        seconds += _training_seconds(BEGINNING, vocab_size, beginning.steps * step_positions)
    for study in studies:
        for arm in study.arms:
            seconds += study.num_trainings(arm) * _training_seconds(arm, study.vocab_size, study.steps * step_positions)
    return seconds / num_workers


def _training_seconds(arm: Arm, vocab_size: int, num_positions: int) -> float:
    kind = "live" if arm.live else "labels" if arm.name in (BEGINNING.name, LABELS) else "cached"
    return _MICROSECONDS[kind] * 1e-6 * max(1.0, vocab_size / _VOCAB) * num_positions + _OUTSIDE_SECONDS
