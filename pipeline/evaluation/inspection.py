"""A look into a cache: what is in it as a whole, and what the teacher said position by position."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from pipeline.cache.statistics import temperatures_in
from pipeline.cache.teacher_cache import CachedSequence, TeacherCache
from pipeline.console import format_bytes
from pipeline.data.sequences import VALIDATION
from pipeline.data.tokenizer import Tokenizer
from pipeline.errors import ConfigError

_WORDS = {VALIDATION: "validation"}


def describe_cache(cache: TeacherCache) -> dict[str, Any]:
    """Sizes and statistics of the sealed part of a cache, as JSON values."""
    plan, statistics = cache.plan, cache.statistics
    size_bytes = sum(shard.seal.size_bytes for shard in cache.shards.values())
    return {
        "plan": plan.hash,
        "kind": plan.layout.kind,
        "vocab_size": plan.vocab_size,
        "head_size": plan.head_size,
        "num_draws": plan.layout.num_draws,
        "sequence_length": plan.sequence_length,
        "num_sequences": plan.num_sequences,
        "shards": {"sealed": len(cache.sealed), "of": len(plan.shards)},
        "size_bytes": size_bytes,
        "statistics": {key: value for key, value in statistics.items() if "histogram" not in key},
    }


def describe_sequence(
    cache: TeacherCache, tokenizer: Tokenizer, index: int, num_positions: int, top: int
) -> dict[str, Any]:
    """The first scored positions of a sequence: the text so far, the label, the teacher's `top` choices."""
    if not 0 <= index < len(cache):
        raise ConfigError(f"--sequence {index}: the cache has sequences 0 to {len(cache) - 1}")
    sequence = cache[index]
    places = np.flatnonzero(sequence.loss_mask_T)[:num_positions]
    return {
        "index": index,
        "split": _WORDS.get(sequence.split, "train"),
        "scored_positions": int(sequence.loss_mask_T.sum()),
        "text": tokenizer.decode(sequence.input_ids),
        "positions": [_describe_position(sequence, tokenizer, int(t), top) for t in places],
    }


def tables(result: dict[str, Any]) -> Iterator[Table]:
    """What `describe_cache` and `describe_sequence` found, for a terminal."""
    yield _cache_table(result)
    for sequence in result["sequences"]:
        yield _sequence_table(sequence)


def _describe_position(sequence: CachedSequence, tokenizer: Tokenizer, t: int, top: int) -> dict[str, Any]:
    records = sequence.records
    kept = int(np.isfinite(records.logprobs_TK[t]).sum())  # a ragged head is padded
    best = np.argsort(-records.logprobs_TK[t], kind="stable")[: min(top, kept)]
    label = int(sequence.input_ids[t + 1])
    return {
        "t": t,
        "token": tokenizer.decode([int(sequence.input_ids[t])]),
        "label": tokenizer.decode([label]),
        "label_probability": float(np.exp(records.label_logprobs_T[t])),
        "entropy_nats": float(records.entropies_T[t]),
        "tail_mass": None if records.layout.kind == "sampled" else float(np.exp(records.tail_TR[t, -1])),
        "choices": [
            {
                "id": int(records.ids_TK[t, k]),
                "text": tokenizer.decode([int(records.ids_TK[t, k])]),
                "probability": float(np.exp(records.logprobs_TK[t, k])),
            }
            for k in best
        ],
    }


def _cache_table(result: dict[str, Any]) -> Table:
    statistics = result["statistics"]
    table = Table(title=f"cache with plan {result['plan'][:12]}", box=SIMPLE_HEAD, show_header=False)
    shards = result["shards"]
    table.add_row("shards sealed", f"{shards['sealed']} of {shards['of']}")
    table.add_row("sequences", f"{result['num_sequences']:,} of {result['sequence_length']:,} positions")
    sizes = f"{result['vocab_size']:,}, {result['head_size']}, {result['num_draws']}"
    table.add_row("kind, vocabulary, head, draws", f"{result['kind']}, {sizes}")
    if shards["sealed"]:
        per_position = f"{statistics['bytes_per_scored_position']:,.1f} bytes a scored position"
        table.add_row("size", f"{format_bytes(result['size_bytes'])}, {per_position}")
        table.add_row("teacher's entropy", f"{statistics['entropy_mean_nats']:.3f} nats a token")
        table.add_row("teacher's cross-entropy", f"{-statistics['label_logprob_mean_nats']:.3f} nats a token")
        for tau in temperatures_in(statistics):
            mean, median = (statistics[f"retained_mass_{kind}_tau_{tau}"] for kind in ("mean", "median"))
            table.add_row(f"mass in the head at τ = {tau}", f"mean {mean:.1%}, median {median:.1%}")
    return table


def _sequence_table(sequence: dict[str, Any]) -> Table:
    title = f"sequence {sequence['index']} ({sequence['split']}), {sequence['scored_positions']:,} scored positions"
    table = Table(title=title, box=SIMPLE_HEAD)
    for name in ("t", "token", "label", "p(label)", "entropy", "tail"):
        table.add_column(name, justify="left" if name in ("token", "label") else "right")
    table.add_column("the teacher's choices")
    for position in sequence["positions"]:
        choices = "  ".join(f"{choice['text']!r} {choice['probability']:.3f}" for choice in position["choices"])
        table.add_row(
            str(position["t"]),
            Text(repr(position["token"])),
            Text(repr(position["label"])),
            f"{position['label_probability']:.4f}",
            f"{position['entropy_nats']:.3f}",
            "–" if position["tail_mass"] is None else f"{position['tail_mass']:.4f}",
            Text(choices),
        )
    return table
