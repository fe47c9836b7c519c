"""How long a study will take, from what a position of each kind of training took on two cores of one machine."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.benches.quality.arms import Arm
from pipeline.benches.quality.plan import Study
from pipeline.evaluation.study.findings import LABELS

_VOCAB = 4096  # at which the figures were taken, with the bundled config's models
_MICROSECONDS = {"labels": 50.0, "cached": 70.0, "live": 200.0}  # of training, a position
_OUTSIDE_SECONDS = 6.0  # of a training: loading, validation, export, measuring beside the teacher


def expected_seconds(studies: Sequence[Study], step_positions: int) -> float:
    """Of all trainings, each study with its vocabulary; the head's work grows with that."""
    seconds = 0.0
    for study in studies:
        for arm in study.arms:
            training = _position_seconds(arm, study.vocab_size) * study.steps * step_positions
            seconds += study.num_trainings(arm) * (training + _OUTSIDE_SECONDS)
    return seconds


def _position_seconds(arm: Arm, vocab_size: int) -> float:
    kind = "live" if arm.live else "labels" if arm.name == LABELS else "cached"
    return _MICROSECONDS[kind] * 1e-6 * max(1.0, vocab_size / _VOCAB)
