"""What the teacher said at each position, in memory: numpy arrays, and how to soften them to another temperature.

Letters: N positions, K head ids, M tail draws, R stored betas, V effective vocabulary. p is the teacher's softmax over
the effective vocabulary at temperature 1; β = 1/τ. Everything is in nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.settings import BETAS
from pipeline.errors import NumericsError

MIN_TEMPERATURE, MAX_TEMPERATURE = 1.0, 4.0
MAX_VOCAB_SIZE = 2**31


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """What every record of a cache holds: the sizes of its fields and the temperatures of its tail."""

    vocab_size: int
    """V, effective vocabulary"""
    head_size: int
    """K, at most V"""
    num_draws: int
    """M; 0 where the head is the whole vocabulary"""
    betas: tuple[float, ...] = BETAS
    """1/τ at which log tail masses are stored, ascending; the last is 1"""
    draw_beta: float = 0.7
    """1/τ the tail draws were made at; one of `betas`"""
    kind: str = "topk"
    precision: str = "fine"

    def __post_init__(self) -> None:
        checks = {
            f"vocab_size must be in 1..{MAX_VOCAB_SIZE}": 1 <= self.vocab_size <= MAX_VOCAB_SIZE,
            "head_size must be in 1..vocab_size": 1 <= self.head_size <= self.vocab_size,
            "num_draws must be at least 0, and 0 without a tail": self.num_draws == 0
            or (self.num_draws > 0 and self.head_size < self.vocab_size),
            "betas must ascend within (0, 1] and end at 1": self.betas[-1:] == (1.0,)
            and self.betas[0] > 0
            and list(self.betas) == sorted(set(self.betas)),
            f"draw_beta must be one of the betas {self.betas}": self.draw_beta in self.betas,
            "kind must be 'topk'": self.kind == "topk",
            "precision must be 'lossless', 'fine' or 'small'": self.precision in ("lossless", "fine", "small"),
        }
        for rule, kept in checks.items():
            if not kept:
                raise ValueError(f"record layout: {rule}; found {self.to_json()}")

    @classmethod
    def for_vocabulary(
        cls, vocab_size: int, head_size: int, num_draws: int, draw_beta: float, precision: str = "fine"
    ) -> Self:
        """The layout for a vocabulary: a head wider than it is cut to it, and then there is no tail to draw from."""
        whole = head_size >= vocab_size
        num_draws = 0 if whole else num_draws
        return cls(vocab_size, min(head_size, vocab_size), num_draws, draw_beta=draw_beta, precision=precision)

    @property
    def num_betas(self) -> int:
        """R."""
        return len(self.betas)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` turns back into this layout."""
        return {
            "vocab_size": self.vocab_size,
            "head_size": self.head_size,
            "num_draws": self.num_draws,
            "betas": list(self.betas),
            "draw_beta": self.draw_beta,
            "kind": self.kind,
            "precision": self.precision,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The layout written by `to_json`; ValueError where a field is missing, unknown or out of range."""
        expected = {"vocab_size", "head_size", "num_draws", "betas", "draw_beta", "kind", "precision"}
        if not isinstance(value, dict) or value.keys() != expected:
            raise ValueError(f"record layout: expected the fields {sorted(expected)}, found {value!r}")
        counts = {name: value[name] for name in ("vocab_size", "head_size", "num_draws")}
        if any(type(count) is not int for count in counts.values()) or not isinstance(value["betas"], list):
            raise ValueError(f"record layout: counts must be integers and betas a list, found {value!r}")
        if any(type(beta) not in (int, float) for beta in [*value["betas"], value["draw_beta"]]):
            raise ValueError(f"record layout: betas must be numbers, found {value!r}")
        return cls(
            **counts,
            betas=tuple(float(beta) for beta in value["betas"]),
            draw_beta=float(value["draw_beta"]),
            kind=value["kind"],
            precision=value["precision"],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Records of N positions. Where the loss mask is false every field holds zeros and means nothing."""

    layout: RecordLayout
    ids_TK: NDArray[np.uint32]
    """head: the K likeliest ids, ascending by id"""
    logprobs_TK: NDArray[np.float32]
    """log p of the head ids"""
    tail_TR: NDArray[np.float32]
    """log Σ_{v in tail} p(v)^β at every stored beta; −inf where the tail is empty"""
    draw_ids_TM: NDArray[np.uint32]
    """ids drawn from the tail with replacement, ∝ p^draw_beta; their order means nothing"""
    draw_logprobs_TM: NDArray[np.float32]
    """log p of the drawn ids"""
    label_logprobs_T: NDArray[np.float32]
    """log p of the label"""
    entropies_T: NDArray[np.float32]
    """−Σ p log p over the effective vocabulary"""

    def __post_init__(self) -> None:
        count, layout = len(self.ids_TK), self.layout
        expected = {
            "ids_TK": (count, layout.head_size),
            "logprobs_TK": (count, layout.head_size),
            "tail_TR": (count, layout.num_betas),
            "draw_ids_TM": (count, layout.num_draws),
            "draw_logprobs_TM": (count, layout.num_draws),
            "label_logprobs_T": (count,),
            "entropies_T": (count,),
        }
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(f"records: {name} must have shape {shape}, found {found}")

    @classmethod
    def blank(cls, layout: RecordLayout, num_positions: int) -> Self:
        """Records that hold zeros everywhere, as masked positions do; a scorer fills the others in."""
        count, head, draws = num_positions, layout.head_size, layout.num_draws
        return cls(
            layout,
            np.zeros((count, head), np.uint32),
            np.zeros((count, head), np.float32),
            np.zeros((count, layout.num_betas), np.float32),
            np.zeros((count, draws), np.uint32),
            np.zeros((count, draws), np.float32),
            np.zeros(count, np.float32),
            np.zeros(count, np.float32),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Records]) -> Self:
        """The positions of all parts, one after another; at least one, all of one layout. One alone is not copied."""
        if not parts or any(part.layout != parts[0].layout for part in parts):
            raise ValueError(
                f"records: expected one or more parts of one layout, found {[part.layout for part in parts]}"
            )
        if len(parts) == 1:
            return cls(parts[0].layout, *parts[0].fields())
        columns = zip(*(part.fields() for part in parts), strict=True)
        return cls(parts[0].layout, *(np.concatenate(column) for column in columns))

    def __len__(self) -> int:
        return len(self.ids_TK)

    def fields(self) -> tuple[NDArray[Any], ...]:
        """The arrays, in the order of their declaration."""
        return (
            self.ids_TK,
            self.logprobs_TK,
            self.tail_TR,
            self.draw_ids_TM,
            self.draw_logprobs_TM,
            self.label_logprobs_T,
            self.entropies_T,
        )

    def rows(self, rows: slice | NDArray[Any]) -> Self:
        """The records of some positions: a slice, an array of indices, or a mask."""
        return type(self)(self.layout, *(field[rows] for field in self.fields()))

    def with_ascending_draws(self) -> Self:
        """The same records with the draws of each position in the order of their ids."""
        order_TM = np.argsort(self.draw_ids_TM, axis=1, kind="stable")
        return replace(
            self,
            draw_ids_TM=np.take_along_axis(self.draw_ids_TM, order_TM, axis=1),
            draw_logprobs_TM=np.take_along_axis(self.draw_logprobs_TM, order_TM, axis=1),
        )

    def soften(self, temperature: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Log-probabilities of the head and of the tail as a whole, at another temperature.

            logZ(β) = logaddexp( logsumexp_head(β·log p), A(β) )
            log p_τ(i) = β·log p(i) − logZ(β)      log p_τ(tail) = A(β) − logZ(β)

        A is the log tail mass (`log_tail_mass`). Returns float32 [N, K] and [N]; the tail is −inf where it is empty.
        ValueError outside temperatures 1 to 4, where the stored tail masses say nothing.
        """
        beta = beta_of(temperature)
        tail_T = self.log_tail_mass(temperature)
        scaled_TK = self.logprobs_TK * np.float32(beta)
        highest_T = np.maximum(scaled_TK.max(axis=1), tail_T)
        shifted_TK = np.exp(scaled_TK - highest_T[:, None].astype(np.float32))
        head_T = shifted_TK.sum(axis=1, dtype=np.float64)
        shift_T = highest_T.astype(np.float32).astype(np.float64)
        log_z_T = shift_T + np.log(head_T + np.exp(tail_T - shift_T))
        logp_head_TK = (self.logprobs_TK * beta - log_z_T[:, None]).astype(np.float32)
        return logp_head_TK, (tail_T - log_z_T).astype(np.float32)

    def log_tail_mass(self, temperature: float) -> NDArray[np.float64]:
        """A(β) = log Σ_{v in tail} p(v)^β at β = 1/τ, by the polynomial through the stored betas; float64 [N].

        −inf where any stored mass is −inf: such a tail is empty.
        """
        weights_R = tail_weights(self.layout.betas, beta_of(temperature))
        empty_T = (self.tail_TR == -np.inf).any(axis=1)
        tail_TR = np.where(empty_T[:, None], 0.0, self.tail_TR.astype(np.float64))
        # Not a matrix product: BLAS may round a row differently according to how many rows there are.
        return np.where(empty_T, -np.inf, (tail_TR * weights_R).sum(axis=1))


def check_records(scored: Records) -> None:
    """ValueError for ids no layout allows; NumericsError for NaN or an infinity (a tail mass may be −inf: empty)."""
    vocab_size = scored.layout.vocab_size
    if (scored.ids_TK[:, 1:] <= scored.ids_TK[:, :-1]).any():
        raise ValueError("records: head ids must ascend at every position")
    if (scored.ids_TK[:, -1:] >= vocab_size).any() or (scored.draw_ids_TM >= vocab_size).any():
        raise ValueError(f"records: an id is outside the vocabulary of {vocab_size}")
    for name in ("logprobs_TK", "draw_logprobs_TM", "label_logprobs_T", "entropies_T"):
        if not np.isfinite(getattr(scored, name)).all():
            raise NumericsError(f"records: {name} holds NaN or an infinity; the teacher's numbers are not to be kept")
    if np.isnan(scored.tail_TR).any() or np.isposinf(scored.tail_TR).any():
        raise NumericsError("records: tail_TR holds NaN or +inf; the teacher's numbers are not to be kept")


def beta_of(temperature: float) -> float:
    """β = 1/τ; ValueError outside the temperatures a record can be softened to."""
    if not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
        raise ValueError(
            f"temperature must be in [{MIN_TEMPERATURE:g}, {MAX_TEMPERATURE:g}], where the stored tail masses reach; "
            f"found {temperature!r}"
        )
    return 1.0 / temperature


def tail_weights(betas: Sequence[float], beta: float) -> NDArray[np.float64]:
    """Weights w [R] such that Σ_r w_r·A(β_r) is, at `beta`, the polynomial through all points (β_r, A(β_r)).

    Lagrange's form; at a stored beta the weights are exactly one-hot.
    """
    return np.array(
        [
            math.prod((beta - other) / (own - other) for s, other in enumerate(betas) if s != r)
            for r, own in enumerate(betas)
        ]
    )
