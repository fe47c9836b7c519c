"""Bytes and rounding as the bench states them, against the dense route."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.benches.codec import added_kl, bench_codec, store
from pipeline.cache import TeacherCache
from pipeline.cache.records import RecordLayout
from tests.cache.dense import logits_of, make_cache, make_plan, make_sequences, records_of, write_shards

LAYOUT = RecordLayout(60, 8, 3, precision="lossless")


def lossless_cache(folder: Path, layout: RecordLayout = LAYOUT) -> TeacherCache:
    sequences = make_sequences(6, 2, 16, layout.vocab_size)
    records = records_of(layout, logits_of(8 * 16, layout.vocab_size))
    write_shards(folder, make_plan(folder, sequences, layout), sequences, records)
    return TeacherCache.open(folder)


def test_figures_of_a_lossless_cache(tmp_path: Path) -> None:
    with lossless_cache(tmp_path) as cache:
        results = {result.name: result for result in bench_codec(cache)}
        scored = int(cache.sequences.scored_counts.sum())
    assert results["codec.positions"].value == scored
    for precision in ("lossless", "fine", "small"):
        whole = results[f"codec.bytes_per_token.{precision}"].value
        parts = [results[f"codec.bytes_per_token.{precision}.{name}"].value for name in ("ids", "values", "columns")]
        assert whole == pytest.approx(sum(parts))
    for temperature in (1, 2, 3):
        result = results[f"codec.kl_nats.T{temperature}"]
        assert (result.goal, result.ok) == ("<= 0.0001", True)
        assert 0 <= result.value <= results[f"codec.kl_nats.T{temperature}.worst"].value
    assert 0 < results["codec.error_nats.fine"].value < results["codec.error_nats.small"].value


@pytest.mark.parametrize("head_size", [8, 60])
def test_added_kl_is_the_dense_one(head_size: int) -> None:
    layout = RecordLayout(60, head_size, 3 if head_size < 60 else 0, precision="small")
    exact = records_of(layout, logits_of(16, 60))
    stored = store(exact, np.ones((1, 16), bool)).records
    p, q = (records.soften(2.0) for records in (exact, stored))
    p_whole, q_whole = (np.concatenate([head, tail[:, None]], axis=1).astype(np.float64) for head, tail in (p, q))
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isfinite(p_whole), np.exp(p_whole) * (p_whole - q_whole), 0.0)
    np.testing.assert_allclose(added_kl(exact, stored, 2.0), terms.sum(axis=1), rtol=1e-6, atol=1e-12)
    assert (added_kl(exact, exact, 2.0) == 0).all()


def test_a_rounded_cache_cannot_say_what_rounding_cost(tmp_path: Path) -> None:
    make_cache(tmp_path)
    with TeacherCache.open(tmp_path) as cache, pytest.raises(ValueError, match="expected a lossless cache"):
        bench_codec(cache)
