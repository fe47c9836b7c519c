"""What the `cache` section of a config may say."""

from __future__ import annotations

from typing import Literal

import pydantic

from pipeline.config import Section, free, identity

BETAS: tuple[float, ...] = (1 / 4, 1 / 3, 1 / 2, 0.7, 0.9, 1.0)
"""1/temperature at which log tail masses are stored"""
_BETA_TOLERANCE = 1e-3  # 0.333 means 1/3


class CacheSettings(Section):
    """What is kept of the teacher, and how it is cut into shards."""

    kind: Literal["topk"] = identity("topk", "what a record keeps: the head, tail masses and tail draws")
    precision: Literal["lossless", "fine", "small"] = identity("fine", "how finely log-probabilities are stored")
    head_size: int = identity(256, "K: ids kept with their log-probabilities", ge=1)
    num_draws: int = identity(16, "M: ids drawn from the tail at every position", ge=0)
    draw_beta: float = identity(0.7, "1/temperature the draws are made at; one of the stored betas")
    seed: int = identity(0, "of the draws", ge=0, lt=2**63)
    shard_positions: int = identity(2**20, "positions a shard, about", ge=1)
    batch_size: int | None = identity(None, "sequences a forward pass; absent: a probe decides before the plan", ge=1)
    chunk_positions: int | None = identity(None, "positions scored at once; absent: a probe decides", ge=1)
    roots: list[str] = free([], "further folders with parts of this cache, read-only, searched at any depth")

    @pydantic.field_validator("draw_beta")
    @classmethod
    def _is_stored(cls, value: float) -> float:
        nearest = min(BETAS, key=lambda beta: abs(beta - value))
        if abs(nearest - value) > _BETA_TOLERANCE:
            raise ValueError(f"expected one of the stored betas {', '.join(f'{beta:.4g}' for beta in BETAS)}")
        return nearest
