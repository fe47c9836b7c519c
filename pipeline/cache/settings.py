"""What the `cache` section of a config may say."""

from __future__ import annotations

from typing import Literal

from pipeline.config import Section, free, identity


class CacheSettings(Section):
    """What is kept of the teacher, and how it is cut into shards."""

    kind: Literal["topk"] = identity("topk", "what a record keeps: the head, tail masses and tail draws")
    precision: Literal["fine"] = identity("fine", "how finely log-probabilities are stored")
    head_size: int = identity(256, "K: ids kept with their log-probabilities", ge=1)
    num_draws: int = identity(16, "M: ids drawn from the tail at every position", ge=0)
    draw_beta: float = identity(0.7, "1/temperature the draws are made at; one of the stored betas")
    seed: int = identity(0, "of the draws", ge=0)
    shard_positions: int = identity(2**20, "positions a shard, about", ge=1)
    batch_size: int | None = identity(None, "sequences a forward pass; absent: a probe decides before the plan", ge=1)
    chunk_positions: int | None = identity(None, "positions scored at once; absent: a probe decides", ge=1)
    roots: list[str] = free([], "further folders with parts of this cache, read-only, searched at any depth")
