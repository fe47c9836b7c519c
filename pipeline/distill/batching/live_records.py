"""Records of a teacher in memory, asked about every id as training needs them: full distillation, without a cache.

The head is as wide as the vocabulary, so the tail is empty and every temperature is exact; with the objective `bucket`
the loss is then Σ_V p_τ·( log p_τ − log q_τ ), Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cache import Records
from pipeline.cache.layout import RecordLayout
from pipeline.data.sequences import Sequences, SequenceSource
from pipeline.models import CausalModel, Teacher


@dataclass(frozen=True, slots=True, eq=False)
class LiveRecords:
    """Sequences, and a teacher that scores the ones that are asked for; read as a cache is."""

    teacher: Teacher
    sequences: SequenceSource

    def read(self, indices: NDArray[np.integer[Any]]) -> tuple[Sequences, Records]:
        """Some of the sequences, and all V log-probabilities at their positions: [B·T, V]."""
        return self.sequences.select(indices), self.teacher.score(self.sequences, indices)


def whole_teacher(model: CausalModel, batch_size: int, chunk_positions: int) -> Teacher:
    """A teacher whose records hold the whole vocabulary, scored `batch_size` sequences a pass."""
    vocab_size = model.num_effective
    layout = RecordLayout(vocab_size, head_size=vocab_size, num_draws=0, precision="lossless")
    return Teacher(model, layout, seed=0, batch_size=batch_size, chunk_positions=chunk_positions)
