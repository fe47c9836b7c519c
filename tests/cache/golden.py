"""Makes a golden cache: a small sealed one, and beside it what the dense route says of it.

Run `python -m tests.cache.golden NAME` only for a new kind or format, in a folder of its own: a cache that was written
once must be readable for ever. cache-v1 was made so by the version that wrote format 1.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import files
from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import PADDING_ID, Records
from pipeline.data.sequences import Sequences
from tests.cache.dense import (
    log_softmax,
    log_sum,
    logits_of,
    make_plan,
    make_sequences,
    records_of,
    tail_mask,
    write_shards,
)

GOLDEN = Path(__file__).parent.parent / "golden"
TEMPERATURES = (1.0, 1.7, 3.0, 4.0)
SEQUENCE_LENGTH = 6
LAYOUT = RecordLayout(40, 6, 3)
LAYOUTS = {f"topk-{precision}-v2": replace(LAYOUT, precision=precision) for precision in ("lossless", "fine", "small")}
LAYOUTS |= {
    "compact-v2": RecordLayout.for_vocabulary(40, 6, 3, 0.7, kind="compact", head_mass=0.5),
    "sampled-v2": RecordLayout.for_vocabulary(40, 0, 9, 1.0, kind="sampled"),
}


def make(folder: Path, layout: RecordLayout) -> None:
    """Write the cache and `expected.json`."""
    sequences = make_sequences(4, 1, SEQUENCE_LENGTH, layout.vocab_size)
    logits_NV = logits_of(sequences.num_sequences * SEQUENCE_LENGTH, layout.vocab_size)
    records = records_of(layout, logits_NV)
    plan = make_plan(folder / "cache", sequences, layout, shard_positions=12)
    write_shards(folder / "cache", plan, sequences, records)
    expected = {"plan_hash": plan.hash, "sequences": _sequences(sequences), "records": _records(records)}
    expected["softened"] = {
        str(temperature): _softened(logits_NV, records, 1 / temperature)
        for temperature in TEMPERATURES
        if layout.kind != "sampled"  # what its counts stand for is in the records
    }
    files.write_json(folder / "expected.json", expected)


def _sequences(sequences: Sequences) -> dict[str, Any]:
    names = ("input_ids", "loss_mask", "document_starts", "split", "num_bytes")
    return {name: getattr(sequences, name).tolist() for name in names}


def _records(records: Records) -> dict[str, Any]:
    order_NM = np.argsort(records.draw_ids_TM, axis=1, kind="stable")
    return {
        "ids_TK": records.ids_TK.tolist(),
        "logprobs_TK": _jsonable(records.logprobs_TK),
        "tail_TR": _jsonable(records.tail_TR),
        "draw_ids_TM": np.take_along_axis(records.draw_ids_TM, order_NM, axis=1).tolist(),
        "draw_logprobs_TM": np.take_along_axis(records.draw_logprobs_TM, order_NM, axis=1).round(5).tolist(),
        "label_logprobs_T": records.label_logprobs_T.round(5).tolist(),
        "entropies_T": records.entropies_T.round(5).tolist(),
    }


def _jsonable(values: np.ndarray) -> list[Any]:
    """Rounded to 5 places; −inf as null."""
    return np.where(np.isneginf(values), None, values.astype(np.float64).round(5)).tolist()


def _softened(logits_NV: np.ndarray, records: Records, beta: float) -> dict[str, Any]:
    dense_NV = log_softmax(logits_NV, beta)
    padding_NK = records.ids_TK == PADDING_ID
    head_NK = np.take_along_axis(dense_NV, np.where(padding_NK, 0, records.ids_TK.astype(np.int64)), axis=1)
    return {
        "head": _jsonable(np.where(padding_NK, -np.inf, head_NK)),
        "tail": log_sum(dense_NV, tail_mask(records.layout, logits_NV)).round(5).tolist(),
    }


if __name__ == "__main__":
    (name,) = sys.argv[1:]
    assert not (GOLDEN / name).exists(), f"{GOLDEN / name} is kept as it was written"
    make(GOLDEN / name, LAYOUTS[name])
