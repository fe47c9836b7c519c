"""The pace of a capture is that of its scoring: measured, not guessed."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache.layout import RecordLayout
from pipeline.models import CausalModel, Teacher
from pipeline.pricing.capture import probe_teacher
from tests import tiny
from tests.evaluation.caches import LENGTH, NUM_TRAIN, make_sequences


def test_a_slow_teacher_makes_a_slow_capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    causal = CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE)
    teacher = Teacher(causal, RecordLayout.for_vocabulary(tiny.VOCAB_SIZE, 16, 4, 0.7), 0, 2, 16)
    score, seconds = Teacher.score, 0.1

    def slow(*arguments: object, **keywords: object) -> object:
        time.sleep(seconds)
        return score(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(Teacher, "score", slow)
    probe = probe_teacher(teacher, make_sequences(), np.arange(NUM_TRAIN))
    assert seconds / (2 * LENGTH) <= probe.seconds_per_position < 20 * seconds / (2 * LENGTH)
    assert len(probe.records) == probe.sequences.num_sequences * LENGTH
