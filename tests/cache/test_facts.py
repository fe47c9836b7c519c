"""Label log p and entropy read alone are those of the whole records, in every format there has been."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.cache import TeacherCache
from pipeline.cache.shard import ShardFile
from pipeline.errors import DamagedDataError, IncompleteInputError
from tests.stages.toys import copy, flip_a_bit

GOLDEN = sorted(path.parent.parent for path in (Path(__file__).parents[1] / "golden").rglob("plan.json"))


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda folder: folder.name)
def test_facts_are_those_of_the_records(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cache.teacher_cache._FACT_ROWS", 2)
    with TeacherCache.open(folder) as cache:
        assert len(cache.sealed) == 3
        for span in cache.sealed:
            label_ST, entropy_ST = cache.facts(span)
            records = cache.read(np.arange(span.first, span.stop))[1]
            assert label_ST.shape == entropy_ST.shape == (span.count, cache.plan.sequence_length)
            assert np.array_equal(label_ST.reshape(-1), records.label_logprobs_T)
            assert np.array_equal(entropy_ST.reshape(-1), records.entropies_T)
            assert entropy_ST.any()


def test_nothing_but_the_columns_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    real = ShardFile.read

    def noted(self: ShardFile, name: str, start: int, stop: int) -> object:
        names.append(name)
        return real(self, name, start, stop)

    monkeypatch.setattr(ShardFile, "read", noted)
    with TeacherCache.open(GOLDEN[0]) as cache:
        cache.facts(cache.sealed[0])
    assert set(names) == {"columns"}


def test_damage_and_absence_are_told(tmp_path: Path) -> None:
    folder = copy(GOLDEN[0], tmp_path / "cache")
    [path, other, _] = sorted(folder.glob("cache/shards/*.shard"))
    with TeacherCache.open(folder) as cache:
        flip_a_bit(path, 0.2)
        with pytest.raises(DamagedDataError, match="columns"):
            cache.facts(cache.plan.shards[0])
    other.with_suffix(".seal.json").unlink()
    with TeacherCache.open(folder) as cache, pytest.raises(IncompleteInputError, match="not in any sealed shard"):
        cache.facts(cache.plan.shards[1])
