"""How finely the numbers of a record are stored: `lossless`, `fine` or `small`.

Each turns the numbers of n records into codes of the head [n, K], codes of the draws [n, M], and fields: whole numbers
of which each record has one. What is stored of `fine` and `small`:

    codes        of the head's log p by a ValueLaw; of the draws', steps below the row's best draw
    fields       floor and step of the head's law, gap from the floor down to the best draw, R log tail masses (less
                 β·floor, as differences to the next β), then −label log p and entropy as float16

How far they may be off: a head entry by `error_nats`, the others by half a step. That is 1/16 nat (`fine`) or 1/8 nat
(`small`) of a draw within 255 steps of the row's best, 1/512 nat of a log tail mass, and 2^-11 of label log p and
entropy themselves in float16's normal range, 6e-5 to 65,504.

`lossless` stores bits of float32, the head's and the draws' as distances from the row's lowest: nothing is off.

Letters: **n** records, **K** head ids, **M** draws, **R** stored betas. Nats everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.layout import PrecisionName, RecordLayout
from pipeline.cache.records import Records, tail_weights
from pipeline.cache.schema import Facts
from pipeline.cache.value_law import FLOOR_STEP_NATS, TARGET_BETAS, ValueLaw

TAIL_STEP_NATS = 1 / 256
_GAP_STEP_NATS = 1 / 8
_FLOAT16_MAX = float(np.finfo(np.float16).max)
_LIMIT = 2**30  # a field beyond it (4 million nats) is stored as it
_EMPTY_TAIL = -(2**31)
_MAX_DRAW_CODE = 255


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """The numbers of n records, as whole numbers."""

    codes_nK: NDArray[np.uint16] | NDArray[np.uint32]
    draw_codes_nM: NDArray[np.uint32]
    fields_Fn: NDArray[np.int32]


class Precision(Protocol):
    """One way to store numbers, with what it promises of them."""

    @property
    def code_bytes(self) -> tuple[int, int]:
        """Bytes of a head entry's code, and of a draw's."""

    def num_fields(self, layout: RecordLayout) -> int:
        """F, the fields of each record."""

    def encode(self, records: Records) -> Coded:
        """Codes of records whose draws ascend by id."""

    def decode(self, coded: Coded, out: Records) -> None:
        """Put the numbers into `out`; ValueError for codes that no encoder writes."""

    def facts(self, fields_2n: NDArray[np.int32]) -> Facts:
        """Label log p and entropy, from the last two fields."""

    def error_nats(self, logprobs: NDArray[np.floating]) -> NDArray[np.float64]:
        """Largest error of a head entry's stored log p."""


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """Numbers rounded where that changes the softened target least."""

    law: ValueLaw
    draw_step_nats: float

    @property
    def code_bytes(self) -> tuple[int, int]:
        """Two bytes for a head entry, of which the higher is hardly ever used, and one for a draw."""
        return 2, 1

    def num_fields(self, layout: RecordLayout) -> int:
        """Floor, step, gap, tail masses, label log p, entropy."""
        return 5 + layout.num_betas

    def error_nats(self, logprobs: NDArray[np.floating]) -> NDArray[np.float64]:
        """See `ValueLaw`; entries further than its span below the likeliest are stored as that far below."""
        return self.law.error_nats(logprobs)

    def encode(self, records: Records) -> Coded:
        """Codes of records whose draws ascend by id."""
        floors_n, steps_n, codes_nK = self.law.encode(records.logprobs_TK, _tail_at_targets(records))
        floor_n = floors_n * FLOOR_STEP_NATS
        gaps_n, draw_codes_nM = self._encode_draws(records.draw_logprobs_TM, floor_n)
        halves = [_half_bits(-records.label_logprobs_T), _half_bits(records.entropies_T)]
        fields: list[NDArray[Any]] = [floors_n, steps_n, gaps_n, *_encode_tail(records, floor_n), *halves]
        return Coded(codes_nK, draw_codes_nM, np.stack(fields).astype(np.int32))

    def decode(self, coded: Coded, out: Records) -> None:
        """Put the numbers into `out`; ValueError for codes that no encoder writes."""
        floors_n, steps_n, gaps_n, *tail = coded.fields_Fn[:-2]
        floor_n = floors_n * FLOOR_STEP_NATS
        best_n = (floor_n - gaps_n * _GAP_STEP_NATS).astype(np.float32)
        self.law.decode(floors_n, steps_n, coded.codes_nK, out.logprobs_TK)
        out.tail_TR[...] = _decode_tail(np.stack(tail, axis=1), floor_n, out.layout)
        np.multiply(coded.draw_codes_nM, np.float32(-self.draw_step_nats), out=out.draw_logprobs_TM, dtype=np.float32)
        out.draw_logprobs_TM[...] += best_n[:, None]
        out.label_logprobs_T[...], out.entropies_T[...] = self.facts(coded.fields_Fn[-2:])

    def facts(self, fields_2n: NDArray[np.int32]) -> Facts:
        """Label log p and entropy, from the last two fields."""
        return -_half(fields_2n[0]), _half(fields_2n[1])

    def _encode_draws(
        self, draw_logprobs_nM: NDArray[np.float32], floor_n: NDArray[np.floating]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
        if not draw_logprobs_nM.shape[1]:
            return np.zeros(len(floor_n), np.int32), np.zeros(draw_logprobs_nM.shape, np.uint32)
        gaps_n = np.floor((floor_n - draw_logprobs_nM.max(axis=1)) / _GAP_STEP_NATS)
        gaps_n = np.clip(gaps_n, -_LIMIT, _LIMIT)
        below_nM = (floor_n - gaps_n * _GAP_STEP_NATS)[:, None] - draw_logprobs_nM
        codes_nM = np.clip(np.rint(below_nM / self.draw_step_nats), 0, _MAX_DRAW_CODE)
        return gaps_n.astype(np.int32), codes_nM.astype(np.uint32)


@dataclass(frozen=True, slots=True, eq=False)
class Lossless:
    """Every float32 bit for bit."""

    @property
    def code_bytes(self) -> tuple[int, int]:
        """Four bytes each: a distance between bits of float32 may take them all."""
        return 4, 4

    def num_fields(self, layout: RecordLayout) -> int:
        """Lowest head entry, lowest draw, tail masses, label log p, entropy."""
        return 4 + layout.num_betas

    def error_nats(self, logprobs: NDArray[np.floating]) -> NDArray[np.float64]:
        """Nothing is lost."""
        return np.zeros(logprobs.shape)

    def encode(self, records: Records) -> Coded:
        """Codes of records whose draws ascend by id."""
        head_n, codes_nK = _distances(records.logprobs_TK)
        draws_n, draw_codes_nM = _distances(records.draw_logprobs_TM)
        fields = [head_n, draws_n, *records.tail_TR.T, records.label_logprobs_T, records.entropies_T]
        return Coded(codes_nK, draw_codes_nM, np.stack([np.ascontiguousarray(x).view(np.int32) for x in fields]))

    def decode(self, coded: Coded, out: Records) -> None:
        """Put the numbers into `out`; any codes are some numbers."""
        floats_Fn = np.ascontiguousarray(coded.fields_Fn).view(np.float32)
        out.logprobs_TK[...] = _from_distances(floats_Fn[0], coded.codes_nK.astype(np.uint32, copy=False))
        out.tail_TR[...] = floats_Fn[2:-2].T
        out.draw_logprobs_TM[...] = _from_distances(floats_Fn[1], coded.draw_codes_nM)
        out.label_logprobs_T[...], out.entropies_T[...] = self.facts(coded.fields_Fn[-2:])

    def facts(self, fields_2n: NDArray[np.int32]) -> Facts:
        """Label log p and entropy, from the last two fields."""
        floats_2n = np.ascontiguousarray(fields_2n).view(np.float32)
        return floats_2n[0], floats_2n[1]


PRECISIONS: dict[PrecisionName, Precision] = {
    "lossless": Lossless(),
    "fine": Rounded(ValueLaw(1e-4, 1 / 2, 1 / 64), draw_step_nats=1 / 8),
    "small": Rounded(ValueLaw(1e-3, 1.0, 1 / 16), draw_step_nats=1 / 4),
}


def _tail_at_targets(records: Records) -> NDArray[np.float64]:
    """Log tail masses at the temperatures at which the law bounds the KL [n, 3]; −inf for an empty tail."""
    weights_R3 = np.stack([tail_weights(records.layout.betas, beta) for beta in TARGET_BETAS], axis=1)
    empty_n1 = np.isneginf(records.tail_TR).any(axis=1, keepdims=True)
    tail_nR = np.where(empty_n1, 0.0, records.tail_TR.astype(np.float64))
    summed_n3 = np.stack([(tail_nR * weights_R).sum(axis=1) for weights_R in weights_R3.T], axis=1)
    return np.where(empty_n1, -np.inf, summed_n3)


def _encode_tail(records: Records, floor_n: NDArray[np.floating]) -> list[NDArray[np.int32]]:
    """Steps of A(β) − β·floor, each less the next one's; the last is whole, and _EMPTY_TAIL where there is no tail."""
    empty_n = np.asarray(np.isneginf(records.tail_TR).any(axis=1))
    tail_nR = np.where(empty_n[:, None], 0.0, records.tail_TR.astype(np.float64))
    tail_nR = tail_nR - np.outer(floor_n, records.layout.betas)
    steps_nR = np.clip(np.rint(tail_nR / TAIL_STEP_NATS), -_LIMIT, _LIMIT)
    steps_nR[empty_n] = 0
    steps_nR[:, :-1] -= steps_nR[:, 1:]
    steps_nR[empty_n, -1] = _EMPTY_TAIL
    return list(steps_nR.astype(np.int64).astype(np.int32).T)


def _decode_tail(
    differences_nR: NDArray[np.int32], floor_n: NDArray[np.floating], layout: RecordLayout
) -> NDArray[np.float32]:
    empty_n = differences_nR[:, -1] == _EMPTY_TAIL
    steps_nR = np.cumsum(differences_nR[:, ::-1], axis=1, dtype=np.int64)[:, ::-1]
    tail_nR = (steps_nR * TAIL_STEP_NATS + np.outer(floor_n, layout.betas)).astype(np.float32)
    tail_nR[empty_n] = -np.inf
    return tail_nR


def _half_bits(values_n: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.clip(values_n, -_FLOAT16_MAX, _FLOAT16_MAX).astype(np.float16).view(np.int16)


def _half(bits_n: NDArray[np.int32]) -> NDArray[np.float32]:
    return bits_n.astype(np.int16).view(np.float16).astype(np.float32)


def _distances(logprobs_nX: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """The lowest of each row, and how far the bit patterns of the others lie from its, modulo 2^32: a negative float's
    bits count up as it falls. Entries of −inf are padding: distance 0."""
    if not logprobs_nX.shape[1]:
        return np.zeros(len(logprobs_nX), np.float32), np.zeros(logprobs_nX.shape, np.uint32)
    present_nX = logprobs_nX > -np.inf
    lowest_n = np.where(present_nX, logprobs_nX, np.float32(np.inf)).min(axis=1)
    distances_nX = lowest_n.view(np.uint32)[:, None] - np.ascontiguousarray(logprobs_nX).view(np.uint32)
    return lowest_n, np.where(present_nX, distances_nX, np.uint32(0))


def _from_distances(lowest_n: NDArray[np.float32], distances_nX: NDArray[np.uint32]) -> NDArray[np.float32]:
    bits_nX = np.ascontiguousarray(lowest_n).view(np.uint32)[:, None] - distances_nX
    return bits_nX.view(np.float32)
