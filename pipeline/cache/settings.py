"""What the `cache` section of a config may say."""

from __future__ import annotations

from typing import Any, Literal, Self

import pydantic

from pipeline.config import Place, Section, free, identity

BETAS: tuple[float, ...] = (1 / 4, 1 / 3, 1 / 2, 0.7, 0.9, 1.0)
"""1/temperature at which log tail masses are stored"""
Kind = Literal["topk", "compact", "sampled"]
DEFAULTS: dict[Kind, dict[str, Any]] = {
    "topk": {"head_size": 256, "num_draws": 32, "draw_beta": 0.7},
    "compact": {"head_size": 64, "head_mass": 0.9, "num_draws": 16, "draw_beta": 0.7},
    "sampled": {"num_draws": 50, "draw_beta": 1.0},
}
"""What is kept where the config does not say."""
MAX_DRAWS = 2**20
"""of a position; for a record it is far too many"""
MAX_RAGGED_HEAD = 255
"""of compact: a position's count is one byte"""
_BETA_TOLERANCE = 1e-3  # 0.333 means 1/3


class CacheSettings(Section):
    """What is kept of the teacher, and how it is cut into shards."""

    kind: Kind = identity("topk", "what a record keeps: topk; compact, a third of it; sampled, draws for τ = 1 alone")
    precision: Literal["lossless", "fine", "small"] = identity("fine", "how finely log-probabilities are stored")
    head_size: int = identity(256, "K: likeliest ids kept with their log-probabilities (compact: 64 at most)", ge=1)
    head_mass: float = identity(0.9, "compact: the mass at which a position's head is enough", gt=0, lt=1)
    num_draws: int = identity(
        32, "M: ids drawn from each position's tail (compact: 16); sampled: of all (50)", ge=0, le=MAX_DRAWS
    )
    draw_beta: float = identity(0.7, "1/temperature at which ids are drawn: one of the stored betas; 1 for sampled")
    seed: int = identity(0, "of the draws", ge=0, lt=2**63)
    shard_positions: int = identity(2**20, "positions per shard, at most", ge=1)
    batch_size: int | None = identity(None, "sequences a forward pass; absent: a probe decides before the plan", ge=1)
    chunk_positions: int | None = identity(None, "positions scored at once; absent: a probe decides", ge=1)
    roots: list[Place] = free([], "further folders with parts of this cache, read-only, searched at any depth")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, value: Any) -> Any:
        """Sizes that are not given are those of the kind."""
        kind = value.get("kind", "topk") if isinstance(value, dict) else None
        defaults: dict[Any, Any] = dict(DEFAULTS)
        return defaults[kind] | value if isinstance(kind, str) and kind in defaults else value

    @pydantic.model_validator(mode="after")
    def _fits_the_kind(self) -> Self:
        """What has no meaning for a kind must not look as if it had one."""
        fields, kind = type(self).model_fields, self.kind
        if kind != "compact" and self.head_mass != fields["head_mass"].default:
            raise ValueError(f"cache.head_mass is of the kind compact; leave it out for {kind}")
        if kind == "compact" and self.head_size > MAX_RAGGED_HEAD:
            raise ValueError(
                f"cache.head_size of the kind compact: expected at most {MAX_RAGGED_HEAD}, found {self.head_size}; "
                f"leave it out for the kind's own, {DEFAULTS[kind]['head_size']}"
            )
        if kind == "sampled":
            for name in ("head_size", "precision"):
                if getattr(self, name) != fields[name].default:
                    raise ValueError(f"cache.{name} has no meaning for the kind sampled: it keeps cache.num_draws ids")
            if self.draw_beta != 1.0:
                raise ValueError(
                    f"the kind sampled draws at cache.draw_beta 1, its only temperature, not at {self.draw_beta:g}"
                )
            if self.num_draws < 1:
                raise ValueError("the kind sampled needs at least one draw: cache.num_draws")
        return self

    @pydantic.field_validator("draw_beta")
    @classmethod
    def _is_stored(cls, value: float) -> float:
        nearest = min(BETAS, key=lambda beta: abs(beta - value))
        if abs(nearest - value) > _BETA_TOLERANCE:
            raise ValueError(f"expected one of the stored betas {', '.join(f'{beta:.4g}' for beta in BETAS)}")
        return nearest
