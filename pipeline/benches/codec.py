"""How many bytes a cached position takes, and what storing it so adds to the softened target.

    KL(exact ‖ stored) at τ = Σ_i p_τ(i)·( log p_τ(i) − log p̂_τ(i) )      over the K head ids and the tail as one

p from records kept bit for bit, p̂ from the same records encoded and decoded again. Letters: **N** scored positions,
**S** sequences, **T** positions of one. Nats everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.benches.results import Result, measured
from pipeline.cache import TeacherCache
from pipeline.cache.codec import make_codec
from pipeline.cache.layout import PrecisionName
from pipeline.cache.plan import FORMAT_VERSION
from pipeline.cache.records import Records
from pipeline.cache.settings import Kind
from pipeline.cache.shard import packed_bytes

TEMPERATURES = (1, 2, 3)
PRECISIONS: Mapping[PrecisionName, float | None] = {"lossless": None, "fine": 400.0, "small": None}
"""Precision -> at most so many bytes a position"""
KINDS: Mapping[Kind, float] = {"compact": 110.0, "sampled": 40.0}
"""Kind of record beside `topk` -> at most so many bytes a position; stated for a vocabulary of 49,152"""
KL_GOAL_NATS = 1e-4
_LIKELY = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """Records as a codec stores them."""

    bytes_per_position: dict[str, float]
    """of each array of a shard, over the scored positions"""
    records: Records
    """as they are read back; scored positions alone"""


def bench_codec(cache: TeacherCache) -> list[Result]:
    """Every precision's bytes and rounding, on all sealed sequences of a cache that was made lossless."""
    if cache.plan.layout.precision != "lossless":
        raise ValueError(f"bench codec: expected a lossless cache, found precision {cache.plan.layout.precision!r}")
    sealed = np.concatenate([np.arange(span.first, span.stop) for span in cache.sealed])
    sequences, exact = cache.read(sealed)
    results = [measured("codec.positions", int(sequences.loss_mask.sum()), "positions")]
    for precision, goal_bytes in PRECISIONS.items():
        layout = replace(exact.layout, precision=precision)
        stored = store(Records(layout, *exact.fields()), sequences.loss_mask)
        results += size_results(precision, stored, goal_bytes)
        if precision != "lossless":
            results += rounding_results(precision, exact.rows(sequences.loss_mask.reshape(-1)), stored.records)
    return results


def bench_kind(cache: TeacherCache) -> list[Result]:
    """Bytes a position of a sealed cache of another kind, from its own shards; and how many ids a head holds."""
    kind = cache.plan.layout.kind
    sealed = np.concatenate([np.arange(span.first, span.stop) for span in cache.sealed])
    sequences, records = cache.read(sealed)
    scored = records.rows(sequences.loss_mask.reshape(-1))
    per_position = cache.statistics["bytes_per_scored_position"]
    return [
        measured(f"codec.bytes_per_token.{kind}", per_position, "bytes", at_most=KINDS[kind]),
        measured(f"codec.head_size.{kind}", np.isfinite(scored.logprobs_TK).sum(axis=1).mean(), "ids, mean"),
    ]


def store(records: Records, loss_mask_ST: NDArray[np.bool_]) -> Stored:
    """Encode records of whole sequences [S·T] as their layout says, price each array, and decode them again.

    Any kind of record goes through here: score the same sequences in its layout.
    """
    codec = make_codec(records.layout, loss_mask_ST.shape[1], FORMAT_VERSION)
    arrays, scored_N = codec.encode(records, loss_mask_ST), loss_mask_ST.reshape(-1)
    num_scored = int(scored_N.sum())
    sizes = {
        schema.name: packed_bytes((schema,), {schema.name: arrays[schema.name]}) / num_scored
        for schema in codec.schema(len(loss_mask_ST))
    }
    return Stored(sizes, codec.decode(arrays).rows(slice(len(scored_N))).rows(scored_N))


def size_results(name: str, stored: Stored, goal_bytes: float | None) -> list[Result]:
    """Bytes a position as a whole, and of each array."""
    whole = measured(
        f"codec.bytes_per_token.{name}", sum(stored.bytes_per_position.values()), "bytes", at_most=goal_bytes
    )
    parts = [
        measured(f"codec.bytes_per_token.{name}.{array}", size, "bytes")
        for array, size in stored.bytes_per_position.items()
    ]
    return [whole, *parts]


def rounding_results(name: str, exact: Records, stored: Records) -> list[Result]:
    """KL at each temperature, mean and worst, and the largest error of an entry; goals for `fine` alone."""
    fine = name == "fine"
    infix, results = "" if fine else f"{name}.", []
    for temperature in TEMPERATURES:
        kl_N = added_kl(exact, stored, temperature)
        place, goal = f"codec.kl_nats.{infix}T{temperature}", KL_GOAL_NATS if fine else None
        results += [
            measured(place, kl_N.mean(), "nats", at_most=goal),
            measured(f"{place}.worst", kl_N.max(), "nats"),
        ]
    error_NK = np.abs(stored.logprobs_TK - exact.logprobs_TK)
    likely_NK = exact.logprobs_TK > np.log(_LIKELY)
    return [
        *results,
        measured(f"codec.error_nats.{name}", error_NK.max(), "nats"),
        measured(f"codec.error_nats.{name}.likely", error_NK[likely_NK].max(initial=0.0), "nats"),
    ]


def added_kl(exact: Records, stored: Records, temperature: float) -> NDArray[np.float64]:
    """KL(exact ‖ stored) of the softened target at every position [N], in float64; 0 for an empty tail's part."""
    (p_NK, p_tail_N), (q_NK, q_tail_N) = exact.soften(temperature), stored.soften(temperature)
    head_N = (np.exp(p_NK.astype(np.float64)) * (p_NK.astype(np.float64) - q_NK)).sum(axis=1)
    has_tail_N = np.isfinite(p_tail_N)
    gap_N = np.subtract(p_tail_N, q_tail_N, out=np.zeros(len(head_N)), where=has_tail_N, dtype=np.float64)
    return np.asarray(head_N + np.where(has_tail_N, np.exp(p_tail_N.astype(np.float64)), 0.0) * gap_N)
