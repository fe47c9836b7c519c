"""What the records of a cache hold: their kind, and the sizes of their fields.

    topk      the K likeliest ids with their log p, log tail masses at R temperatures, M ids drawn from the tail
    compact   the same with a ragged head: as many of the likeliest ids as reach `head_mass`, at most K
    sampled   N ids drawn from p itself, as unique ids with counts: Random-Sampling KD (Anshumann et al. 2025,
              arXiv:2503.16870). It speaks of temperature 1 alone, where it estimates the full KD loss without bias

Letters: **K** head ids, **M** tail draws, **N** draws of `sampled`, **R** stored betas, **V** effective vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from pipeline.cache.settings import BETAS, MAX_DRAWS, MAX_RAGGED_HEAD, Kind

MIN_TEMPERATURE, MAX_TEMPERATURE = 1.0, 4.0
MAX_VOCAB_SIZE = 2**31
PrecisionName = Literal["lossless", "fine", "small"]


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """What every record of a cache holds: the sizes of its fields and the temperatures of its tail."""

    vocab_size: int
    """V, effective vocabulary"""
    head_size: int
    """K, at most V; of `sampled` the most unique ids there can be"""
    num_draws: int
    """M; 0 where the head is the whole vocabulary. Of `sampled`: N"""
    betas: tuple[float, ...] = BETAS
    """1/τ at which log tail masses are stored, ascending; the last is 1"""
    draw_beta: float = 0.7
    """1/τ the draws were made at; one of `betas`"""
    kind: Kind = "topk"
    precision: PrecisionName = "fine"
    head_mass: float = 1.0
    """of `compact`: the mass at τ = 1 at which a row's head is enough"""

    def __post_init__(self) -> None:
        checks = {
            f"vocab_size must be in 1..{MAX_VOCAB_SIZE}": 1 <= self.vocab_size <= MAX_VOCAB_SIZE,
            "head_size must be in 1..vocab_size": 1 <= self.head_size <= self.vocab_size,
            f"num_draws must be in 0..{MAX_DRAWS}": 0 <= self.num_draws <= MAX_DRAWS,
            "betas must ascend within (0, 1] and end at 1": self.betas[-1:] == (1.0,)
            and self.betas[0] > 0
            and list(self.betas) == sorted(set(self.betas)),
            f"draw_beta must be one of the betas {self.betas}": self.draw_beta in self.betas,
            f"kind must be one of {get_args(Kind)}": self.kind in get_args(Kind),
            f"precision must be one of {get_args(PrecisionName)}": self.precision in get_args(PrecisionName),
        }
        for rule, kept in (checks | self._checks_of_kind()).items():
            if not kept:
                raise ValueError(f"record layout: {rule}; found {self.to_json()}")

    def _checks_of_kind(self) -> dict[str, bool]:
        whole = self.head_size == self.vocab_size
        if self.kind == "compact":
            return {
                "head_mass must be in (0, 1)": 0 < self.head_mass < 1,
                f"head_size of compact must be at most {MAX_RAGGED_HEAD}": self.head_size <= MAX_RAGGED_HEAD,
                "head_size of compact must leave a tail": not whole,
            }
        if self.kind == "sampled":
            return {
                "num_draws of sampled must be at least 1": self.num_draws >= 1,
                "head_size of sampled must be the smaller of num_draws and vocab_size": (
                    self.head_size == min(self.num_draws, self.vocab_size)
                ),
                "sampled knows beta 1 alone": self.betas == (1.0,),
                "counts of sampled are exact: precision must be 'fine'": self.precision == "fine",
            }
        return {
            "num_draws must be 0 without a tail": self.num_draws == 0 or not whole,
            "head_mass is of compact alone": self.head_mass == 1.0,
        }

    @classmethod
    def for_vocabulary(
        cls,
        vocab_size: int,
        head_size: int,
        num_draws: int,
        draw_beta: float,
        precision: PrecisionName = "fine",
        kind: Kind = "topk",
        head_mass: float = 0.9,
    ) -> Self:
        """The layout for a vocabulary: a head wider than it is cut to it, and then there is no tail to draw from.

        `sampled` has no head but its draws, at β = 1; `head_mass` is of `compact`.
        """
        if kind == "sampled":
            return cls(vocab_size, min(num_draws, vocab_size), num_draws, (1.0,), 1.0, kind)
        if kind == "compact":
            head_size = min(head_size, vocab_size - 1)
            return cls(vocab_size, head_size, num_draws, BETAS, draw_beta, kind, precision, head_mass)
        num_draws = 0 if head_size >= vocab_size else num_draws
        return cls(vocab_size, min(head_size, vocab_size), num_draws, draw_beta=draw_beta, precision=precision)

    @property
    def num_betas(self) -> int:
        """R, how many temperatures have a stored log tail mass."""
        return len(self.betas)

    @property
    def num_tail_draws(self) -> int:
        """M: `sampled` has a head of draws and none of a tail."""
        return 0 if self.kind == "sampled" else self.num_draws

    @property
    def ragged(self) -> bool:
        """Whether rows have heads of different sizes, filled up with padding."""
        return self.kind != "topk"

    @property
    def temperatures(self) -> tuple[float, float]:
        """The lowest and the highest temperature that records can be softened to."""
        return (1.0, 1.0) if self.kind == "sampled" else (MIN_TEMPERATURE, MAX_TEMPERATURE)

    def beta_of(self, temperature: float) -> float:
        """β = 1/τ; ValueError outside the temperatures a record can be softened to."""
        lowest, highest = self.temperatures
        if not lowest <= temperature <= highest:
            raise ValueError(f"temperature must be {self._reach()}; found {temperature!r}")
        return 1.0 / temperature

    def _reach(self) -> str:
        if self.kind == "sampled":
            return "1, at which the ids of a sampled record were drawn"
        return f"in [{MIN_TEMPERATURE:g}, {MAX_TEMPERATURE:g}], where the stored tail masses reach"

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` turns back into this layout."""
        value: dict[str, Any] = {
            "vocab_size": self.vocab_size,
            "head_size": self.head_size,
            "num_draws": self.num_draws,
            "betas": list(self.betas),
            "draw_beta": self.draw_beta,
            "kind": self.kind,
            "precision": self.precision,
        }
        return value | {"head_mass": self.head_mass} if self.kind == "compact" else value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The layout written by `to_json`; ValueError where a field is missing, unknown or out of range."""
        expected = {"vocab_size", "head_size", "num_draws", "betas", "draw_beta", "kind", "precision"}
        if isinstance(value, dict) and value.get("kind") == "compact":
            expected = expected | {"head_mass"}
        if not isinstance(value, dict) or value.keys() != expected:
            raise ValueError(f"record layout: expected the fields {sorted(expected)}, found {value!r}")
        counts = {name: value[name] for name in ("vocab_size", "head_size", "num_draws")}
        if any(type(count) is not int for count in counts.values()) or not isinstance(value["betas"], list):
            raise ValueError(f"record layout: counts must be integers and betas a list, found {value!r}")
        numbers = [*value["betas"], value["draw_beta"], value.get("head_mass", 1.0)]
        if any(type(number) not in (int, float) for number in numbers):
            raise ValueError(f"record layout: betas and masses must be numbers, found {value!r}")
        return cls(
            **counts,
            betas=tuple(float(beta) for beta in value["betas"]),
            draw_beta=float(value["draw_beta"]),
            kind=value["kind"],
            precision=value["precision"],
            head_mass=float(value.get("head_mass", 1.0)),
        )
