"""What a capture and a training need of memory, told from sizes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pipeline.cache.settings import CacheSettings
from pipeline.distill.keeping.checkpoint import KEPT
from pipeline.distill.settings import TrainSettings
from pipeline.models.probe import LOGITS_BUFFERS, usual_chunk

_FLOAT32_BYTES, _HALF_BYTES = 4, 2


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes a training needs, in rough parts; what the activations of a pass take is only known on a card."""

    parameters: int
    gradients: int
    optimizer: int
    """its two moments"""
    average: int
    head_chunk: int
    """logits of a chunk [chunk_positions, V] and the gradient of the output matrix [V, D], in float32; with products in
    half precision also the gradient by those logits and the matrix in it, and what a chunk adds to the matrix's"""
    peak: int | None
    """measured over a step on a card, activations included; None on a CPU"""

    @classmethod
    def of(
        cls,
        settings: TrainSettings,
        weights: int,
        trained: int,
        matrix: int,
        vocab_size: int,
        on_card: bool,
        peak: int | None = None,
    ) -> Self:
        """Of a student with so many bytes of weights, of which so many are `trained`; `matrix` counts V·D elements."""
        elsewhere = settings.ema_device == "host" and on_card
        half = settings.dtype in ("float16", "bfloat16") or (settings.dtype == "auto" and on_card)
        logits = settings.chunk_positions * vocab_size
        return cls(
            parameters=weights,
            gradients=trained,
            optimizer=2 * trained,
            average=trained if settings.ema_decay > 0 and not elsewhere else 0,
            head_chunk=_FLOAT32_BYTES * (logits + matrix)
            + half * (_HALF_BYTES * (logits + matrix) + _FLOAT32_BYTES * matrix),
            peak=peak,
        )

    @property
    def known_parts(self) -> int:
        """All parts but `peak`."""
        return self.parameters + self.gradients + self.optimizer + self.average + self.head_chunk


@dataclass(frozen=True, slots=True)
class CaptureMemory:
    """Bytes a capture needs at least: what a pass adds grows with its batch, which a probe finds."""

    weights: int
    logits: int
    """float32 logits of the positions that are scored at once"""

    @classmethod
    def of(cls, settings: CacheSettings, weights: int, vocab_size: int, on_card: bool) -> Self:
        """Of a teacher with so many bytes of weights."""
        chunk = settings.chunk_positions or usual_chunk(vocab_size, on_card)
        return cls(weights, LOGITS_BUFFERS * _FLOAT32_BYTES * chunk * vocab_size)

    @property
    def known_parts(self) -> int:
        """All that is counted here: weights and logits."""
        return self.weights + self.logits


def all_checkpoints_bytes(checkpoint: int, weights: int) -> int:
    """The most that a training's checkpoints take at once: those that are kept, and one that is being written.

    Each may refer to best weights of its own, and there may be better ones since.
    """
    return (KEPT + 1) * (checkpoint + weights)
