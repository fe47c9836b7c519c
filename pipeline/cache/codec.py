"""Records <-> the three integer arrays a shard keeps of them.

    ids      uint16 or uint32 [S, T, K+M]  head ids, then draw ids; each group ascending, as differences
    values   uint16 [S, T, K+M]            −log p of the same ids in steps of 1/32 nat
    columns  int32 [S, T, R+1]             log tail masses in steps of 1/256 nat; then two float16: label log p, entropy

S sequences of T positions. Masked positions are zeros in all three, which compress to nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.records import RecordLayout, Records
from pipeline.cache.schema import Arrays, ArraySchema
from pipeline.errors import NumericsError

VALUE_STEP_NATS = 1 / 32
VALUE_ERROR_NATS = VALUE_STEP_NATS / 2
"""Largest error of a stored log p that is not below the floor."""
VALUE_FLOOR_NATS = -65535 * VALUE_STEP_NATS
"""Log p below this (probabilities under e^-2047) is stored as this."""
TAIL_STEP_NATS = 1 / 256
TAIL_ERROR_NATS = TAIL_STEP_NATS / 2
"""Largest error of a stored log tail mass between ±65,536 nats; beyond, float32's own rounding dominates."""
FLOAT16_RELATIVE_ERROR = 2.0**-11
"""Largest relative error of label log p and entropy in float16's normal range, 6e-5 to 65,504."""

_EMPTY_TAIL = -(2**31)
_TAIL_LIMIT = 2**31 - 1
_FLOAT16_MAX = float(np.finfo(np.float16).max)


def schema(layout: RecordLayout, num_sequences: int, sequence_length: int) -> tuple[ArraySchema, ...]:
    """The arrays of a shard of `num_sequences` sequences; one chunk a sequence."""
    lead = (num_sequences, sequence_length)
    width = layout.head_size + layout.num_draws
    return (
        ArraySchema("ids", "uint16" if layout.vocab_size <= 2**16 else "uint32", (*lead, width), "zstd"),
        ArraySchema("values", "uint16", (*lead, width), "bitshuffle"),
        ArraySchema("columns", "int32", (*lead, layout.num_betas + 1), "bitshuffle"),
    )


def encode(records: Records, loss_mask_ST: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """Arrays of S·T records, in the order of the mask's positions.

    Raises NumericsError where a scored position holds NaN or an infinity (a tail mass may be −inf: an empty tail).
    """
    num_sequences, sequence_length = loss_mask_ST.shape
    mask_T = loss_mask_ST.reshape(-1)
    if len(records) != len(mask_T):
        raise ValueError(f"expected {len(mask_T)} records for mask {loss_mask_ST.shape}, found {len(records)}")
    scored = records.rows(mask_T)
    _check_ids(scored)
    _check_finite(scored)
    encoded = {
        "ids": _encode_ids(scored),
        "values": _encode_values(scored),
        "columns": np.concatenate([_encode_tail(scored.tail_TR), _encode_halves(scored)], axis=1),
    }
    arrays = {}
    for array in schema(records.layout, num_sequences, sequence_length):
        rows = np.zeros((len(mask_T), array.shape[-1]), array.dtype)
        rows[mask_T] = encoded[array.name]
        arrays[array.name] = rows.reshape(array.shape)
    return arrays


def decode(arrays: Arrays, layout: RecordLayout) -> Records:
    """Records of all positions of the arrays, sequence after sequence; ValueError where an id is outside V."""
    ids, values, columns = (
        array.reshape(-1, array.shape[-1]) for array in (arrays["ids"], arrays["values"], arrays["columns"])
    )
    head, num_betas = layout.head_size, layout.num_betas
    logprobs = values * np.float32(-VALUE_STEP_NATS)
    halves = np.ascontiguousarray(columns[:, num_betas:]).view(np.float16).astype(np.float32)
    return Records(
        layout,
        _decode_ids(ids[:, :head], layout),
        logprobs[:, :head],
        _decode_tail(columns[:, :num_betas]),
        _decode_ids(ids[:, head:], layout),
        logprobs[:, head:],
        halves[:, 0],
        halves[:, 1],
    )


def _check_ids(scored: Records) -> None:
    vocab_size = scored.layout.vocab_size
    if (scored.ids_TK[:, 1:] <= scored.ids_TK[:, :-1]).any():
        raise ValueError("records: head ids must ascend at every position")
    if (scored.ids_TK[:, -1:] >= vocab_size).any() or (scored.draw_ids_TM >= vocab_size).any():
        raise ValueError(f"records: an id is outside the vocabulary of {vocab_size}")


def _check_finite(scored: Records) -> None:
    for name in ("logprobs_TK", "draw_logprobs_TM", "label_logprobs_T", "entropies_T"):
        if not np.isfinite(getattr(scored, name)).all():
            raise NumericsError(f"records: {name} holds NaN or an infinity; the teacher's numbers are not to be kept")
    if np.isnan(scored.tail_TR).any() or np.isposinf(scored.tail_TR).any():
        raise NumericsError("records: tail_TR holds NaN or +inf; the teacher's numbers are not to be kept")


def _encode_ids(scored: Records) -> NDArray[np.uint32]:
    draws_TM = np.sort(scored.draw_ids_TM, axis=1)
    zero_T1 = np.zeros((len(scored), 1), np.uint32)
    return np.concatenate(
        [np.diff(scored.ids_TK, axis=1, prepend=zero_T1), np.diff(draws_TM, axis=1, prepend=zero_T1)], axis=1
    )


def _encode_values(scored: Records) -> NDArray[np.float32]:
    order_TM = np.argsort(scored.draw_ids_TM, axis=1, kind="stable")
    draws_TM = np.take_along_axis(scored.draw_logprobs_TM, order_TM, axis=1)
    logprobs = np.concatenate([scored.logprobs_TK, draws_TM], axis=1)
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
