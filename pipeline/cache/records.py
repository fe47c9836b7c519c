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

from pipeline.cache.layout import RecordLayout
from pipeline.errors import NumericsError

PADDING_ID = 2**32 - 1
"""fills the ids of a ragged head up, with log p −inf"""


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Records of N positions. Where the loss mask is false every field means nothing.

    A ragged head (kinds `compact` and `sampled`) is filled up with PADDING_ID and log p −inf; at least one id is real.
    Of `sampled`, log p is log(count/N): the distribution its N draws stand for.
    """

    layout: RecordLayout
    ids_TK: NDArray[np.uint32]
    """head: the likeliest ids, ascending by id; then padding"""
    logprobs_TK: NDArray[np.float32]
    """log p of the head ids; −inf at padding"""
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
            "draw_ids_TM": (count, layout.num_tail_draws),
            "draw_logprobs_TM": (count, layout.num_tail_draws),
            "label_logprobs_T": (count,),
            "entropies_T": (count,),
        }
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(f"records: {name} must have shape {shape}, found {found}")

    @classmethod
    def empty(cls, layout: RecordLayout, num_positions: int) -> Self:
        """Room for so many records; what is in it means nothing until they are put there."""
        count = num_positions
        return cls(
            layout,
            np.empty((count, layout.head_size), np.uint32),
            np.empty((count, layout.head_size), np.float32),
            np.empty((count, layout.num_betas), np.float32),
            np.empty((count, layout.num_tail_draws), np.uint32),
            np.empty((count, layout.num_tail_draws), np.float32),
            np.empty(count, np.float32),
            np.empty(count, np.float32),
        )

    @classmethod
    def blank(cls, layout: RecordLayout, num_positions: int) -> Self:
        """Zeros everywhere (a ragged head: id 0 alone), as masked positions hold; a scorer fills the others in."""
        count, head, draws = num_positions, layout.head_size, layout.num_tail_draws
        ids_TK, logprobs_TK = np.zeros((count, head), np.uint32), np.zeros((count, head), np.float32)
        if layout.ragged:
            ids_TK[:, 1:], logprobs_TK[:, 1:] = PADDING_ID, -np.inf
        return cls(
            layout,
            ids_TK,
            logprobs_TK,
            np.full((count, layout.num_betas), -np.inf if layout.kind == "sampled" else 0.0, np.float32),
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

    def put(self, records: Records) -> None:
        """Copy as many records of the same layout to where these are."""
        for own, new in zip(self.fields(), records.fields(), strict=True):
            own[...] = new

    def rows(self, rows: slice | NDArray[Any]) -> Self:
        """The records of some positions: a slice, an array of indices, or a mask."""
        return type(self)(self.layout, *(field[rows] for field in self.fields()))

    def filled_ids(self) -> NDArray[np.uint32]:
        """Head ids [T, K] in which padding repeats the last real id of its row."""
        if not self.layout.ragged:
            return self.ids_TK
        return np.maximum.accumulate(np.where(self.ids_TK == PADDING_ID, np.uint32(0), self.ids_TK), axis=1)

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
        ValueError outside temperatures 1 to 4, where the stored tail masses say nothing, and of
        `sampled` records at any other than 1.
        """
        beta = self.layout.beta_of(temperature)
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
        weights_R = tail_weights(self.layout.betas, self.layout.beta_of(temperature))
        empty_T = (self.tail_TR == -np.inf).any(axis=1)
        tail_TR = np.where(empty_T[:, None], 0.0, self.tail_TR.astype(np.float64))
        # Not a matrix product: BLAS may round a row differently according to how many rows there are.
        return np.where(empty_T, -np.inf, (tail_TR * weights_R).sum(axis=1))


def check_records(scored: Records) -> None:
    """ValueError for ids no layout allows; NumericsError for NaN or an infinity (a tail mass may be −inf: empty)."""
    vocab_size, ids_TK = scored.layout.vocab_size, scored.ids_TK
    padding_TK = ids_TK == PADDING_ID if scored.layout.ragged else np.zeros_like(ids_TK, bool)
    if ((ids_TK[:, 1:] <= ids_TK[:, :-1]) & ~padding_TK[:, 1:]).any():
        raise ValueError("records: head ids must ascend at every position, and padding come last")
    if ((ids_TK >= vocab_size) & ~padding_TK).any() or (scored.draw_ids_TM >= vocab_size).any():
        raise ValueError(f"records: an id is outside the vocabulary of {vocab_size}")
    if padding_TK[:, :1].any():
        raise ValueError("records: a head must hold at least one id")
    if (np.isneginf(scored.logprobs_TK) != padding_TK).any():
        raise NumericsError("records: logprobs_TK is −inf elsewhere than at padding; such numbers are not to be kept")
    real = {"logprobs_TK": np.where(padding_TK, 0.0, scored.logprobs_TK)}
    for name in ("logprobs_TK", "draw_logprobs_TM", "label_logprobs_T", "entropies_T"):
        if not np.isfinite(real.get(name, getattr(scored, name))).all():
            raise NumericsError(f"records: {name} holds NaN or an infinity; the teacher's numbers are not to be kept")
    if np.isnan(scored.tail_TR).any() or np.isposinf(scored.tail_TR).any():
        raise NumericsError("records: tail_TR holds NaN or +inf; the teacher's numbers are not to be kept")


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
