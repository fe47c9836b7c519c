"""Format 1 of a shard's records: what a cache begun with it goes on with, and reads for ever.

    ids      uint16 or uint32 [S, T, K+M]  head ids, then draw ids; each group ascending, as differences
    values   uint16 [S, T, K+M]            −log p of the same ids in steps of 1/32 nat
    columns  int32 [S, T, R+1]             log tail masses in steps of 1/256 nat; then two float16: label log p, entropy

A log p above the floor is off by 1/64 nat at most, a log tail mass within ±65,536 nats by 1/512 (beyond, float32's own
rounding dominates), label log p and entropy by 2^-11 of themselves in float16's normal range, 6e-5 to 65,504.

S sequences of T positions. Masked positions are zeros in all three, which compress to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import Records, check_records
from pipeline.cache.schema import Arrays, ArraySchema, Facts

VALUE_STEP_NATS = 1 / 32
VALUE_FLOOR_NATS = -65535 * VALUE_STEP_NATS
"""Log p below this (probabilities under e^-2047) is stored as this."""
TAIL_STEP_NATS = 1 / 256

_EMPTY_TAIL = -(2**31)
_TAIL_LIMIT = 2**31 - 1
_FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True)
class CodecV1:
    """Uniform steps, packed by zstd and blosc."""

    layout: RecordLayout
    sequence_length: int

    @property
    def chunk_sequences(self) -> int:
        """Sequences that are encoded and read together."""
        return 1

    def schema(self, num_sequences: int) -> tuple[ArraySchema, ...]:
        """The arrays of a shard of so many sequences."""
        layout, lead = self.layout, (num_sequences, self.sequence_length)
        width = layout.head_size + layout.num_draws
        return (
            ArraySchema("ids", "uint16" if layout.vocab_size <= 2**16 else "uint32", (*lead, width), "zstd"),
            ArraySchema("values", "uint16", (*lead, width), "bitshuffle"),
            ArraySchema("columns", "int32", (*lead, layout.num_betas + 1), "bitshuffle"),
        )

    def encode(self, records: Records, loss_mask_ST: NDArray[np.bool_]) -> Arrays:
        """Arrays of S sequences, S·T records; NumericsError where a scored one holds NaN or an infinity."""
        mask_T = loss_mask_ST.reshape(-1)
        if len(records) != len(mask_T):
            raise ValueError(f"expected {len(mask_T)} records for mask {loss_mask_ST.shape}, found {len(records)}")
        scored = records.rows(mask_T)
        check_records(scored)
        scored = scored.with_ascending_draws()
        encoded = {
            "ids": _encode_ids(scored),
            "values": _encode_values(scored),
            "columns": np.concatenate([_encode_tail(scored.tail_TR), _encode_halves(scored)], axis=1),
        }
        arrays = {}
        for array in self.schema(len(loss_mask_ST)):
            rows = np.zeros((len(mask_T), array.shape[-1]), array.dtype)
            rows[mask_T] = encoded[array.name]
            arrays[array.name] = rows.reshape(array.shape)
        return arrays

    def decode(self, arrays: Arrays, out: Records | None = None) -> Records:
        """Records of all positions of the arrays, sequence after sequence; ValueError where an id is outside V.

        They are put into `out` where it is given, which has room for as many.
        """
        layout = self.layout
        ids, values, columns = (
            array.reshape(-1, array.shape[-1]) for array in (arrays["ids"], arrays["values"], arrays["columns"])
        )
        head, num_betas = layout.head_size, layout.num_betas
        logprobs = values * np.float32(-VALUE_STEP_NATS)
        label_n, entropy_n = self.facts(columns)
        records = Records(
            layout,
            _decode_ids(ids[:, :head], layout),
            logprobs[:, :head],
            _decode_tail(columns[:, :num_betas]),
            _decode_ids(ids[:, head:], layout),
            logprobs[:, head:],
            label_n,
            entropy_n,
        )
        if out is None:
            return records
        out.put(records)
        return out

    def facts(self, columns: NDArray[np.int32]) -> Facts:
        """Label log p and entropy of all positions, from rows of `columns` alone."""
        last = np.ascontiguousarray(columns.reshape(-1, columns.shape[-1])[:, self.layout.num_betas :])
        halves = last.view(np.float16).astype(np.float32)
        return halves[:, 0], halves[:, 1]


def _encode_ids(scored: Records) -> NDArray[np.uint32]:
    zero_T1 = np.zeros((len(scored), 1), np.uint32)
    groups = (scored.ids_TK, scored.draw_ids_TM)
    return np.concatenate([np.diff(ids_TX, axis=1, prepend=zero_T1) for ids_TX in groups], axis=1)


def _encode_values(scored: Records) -> NDArray[np.float32]:
    logprobs = np.concatenate([scored.logprobs_TK, scored.draw_logprobs_TM], axis=1)
    steps: NDArray[np.float32] = np.rint(np.clip(logprobs, VALUE_FLOOR_NATS, 0.0) / np.float32(-VALUE_STEP_NATS))
    return steps


def _encode_tail(tail_TR: NDArray[np.float32]) -> NDArray[np.int32]:
    steps_TR = np.rint(tail_TR.astype(np.float64) / TAIL_STEP_NATS)
    limited_TR = np.clip(steps_TR, -_TAIL_LIMIT, _TAIL_LIMIT)
    return np.where(np.isneginf(tail_TR), _EMPTY_TAIL, limited_TR).astype(np.int32)


def _encode_halves(scored: Records) -> NDArray[np.int32]:
    halves_T2 = np.stack([scored.label_logprobs_T, scored.entropies_T], axis=1)
    return np.clip(halves_T2, -_FLOAT16_MAX, _FLOAT16_MAX).astype("<f2").view("<i4")


def _decode_ids(differences: NDArray[Any], layout: RecordLayout) -> NDArray[np.uint32]:
    # Differences below 2^16, of at most 2^16 ids, cannot overflow 32 bits; wider ones in a bad file could.
    ids = np.cumsum(differences, axis=1, dtype=np.uint32 if differences.dtype == np.uint16 else np.uint64)
    if ids.size and int(ids[:, -1].max()) >= layout.vocab_size:
        raise ValueError(f"an id is {int(ids.max())}, outside the vocabulary of {layout.vocab_size}")
    return ids.astype(np.uint32, copy=False)


def _decode_tail(steps_TR: NDArray[np.int32]) -> NDArray[np.float32]:
    nats_TR = (steps_TR * TAIL_STEP_NATS).astype(np.float32)
    nats_TR[steps_TR == _EMPTY_TAIL] = -np.inf
    return nats_TR
