"""Caches whose trainings would not be paired are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cache import TeacherCache
from pipeline.cache.layout import RecordLayout
from pipeline.errors import IdentityError
from stages.quality_trainings import refuse_another_order
from tests.cache.dense import logits_of, make_plan, make_sequences, records_of, write_shards


def cache_of(folder: Path, head_size: int, shard_positions: int, seed: int = 0) -> TeacherCache:
    """A sealed cache with heads and shards of some size, of some text."""
    layout = RecordLayout.for_vocabulary(50, head_size, 3, 0.7)
    sequences = make_sequences(5, 2, 16, 50, seed)
    records = records_of(layout, logits_of(sequences.num_sequences * 16, 50, 0), 0)
    write_shards(folder, make_plan(folder, sequences, layout, shard_positions), sequences, records)
    return TeacherCache.open(folder)


def test_other_heads_are_paired_and_other_shards_or_texts_are_not(tmp_path: Path) -> None:
    default = cache_of(tmp_path / "default", 8, 32)
    refuse_another_order(default, cache_of(tmp_path / "narrow", 4, 32))
    with pytest.raises(IdentityError, match="found 3 shards, not 4"):
        refuse_another_order(default, cache_of(tmp_path / "longer", 8, 48))
    with pytest.raises(IdentityError, match="or other text"):
        refuse_another_order(default, cache_of(tmp_path / "other", 8, 32, seed=1))
