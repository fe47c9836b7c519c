"""The figures of a real cache, against its records and its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluation.cache_facts import facts_of
from pipeline.models import CausalModel
from tests import tiny
from tests.evaluation.caches import LENGTH, make_cache


@pytest.fixture(scope="module")
def teacher() -> CausalModel:
    return CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE)


def test_figures_equal_what_the_records_say(teacher: CausalModel, tmp_path: Path) -> None:
    """In a lossless cache: figures are taken before anything is rounded."""
    cache = make_cache(tmp_path, teacher, precision="lossless")
    facts = facts_of(cache)
    sequences, records = cache.read(np.arange(len(cache)))
    scored = records.rows(sequences.loss_mask.reshape(-1))
    assert facts.complete
    assert facts.num_scored == len(scored)
    assert facts.size_bytes == sum(path.stat().st_size for path in (tmp_path / "shards").glob("*.shard"))
    assert facts.bytes_per_token == facts.size_bytes / len(scored)
    assert facts.entropy_nats == pytest.approx(scored.entropies_T.mean(), abs=1e-3)
    assert facts.cross_entropy_nats == pytest.approx(-scored.label_logprobs_T.mean(), abs=1e-3)
    assert [kept.temperature for kept in facts.retained] == [1, 2, 3]
    for kept in facts.retained:
        mass = np.exp(scored.soften(kept.temperature)[0]).sum(axis=1)
        assert kept.mean == pytest.approx(mass.mean(), abs=1e-4)
        assert kept.median == pytest.approx(np.median(mass), abs=0.011)
        assert sum(kept.histogram) == len(scored)
    assert {shard.split for shard in facts.shards} == {"train", "validation"}
    assert sum(shard.num_sequences for shard in facts.shards) == facts.num_sequences
    assert facts.sequence_length == LENGTH
    assert facts.environments == ({"torch": "2"},)


@pytest.mark.parametrize("seal", [0, 1])
def test_an_unfinished_cache(teacher: CausalModel, tmp_path: Path, seal: int) -> None:
    facts = facts_of(make_cache(tmp_path, teacher, seal=seal))
    assert not facts.complete
    assert len(facts.sealed) == seal
    assert (facts.bytes_per_token is None) == (facts.cross_entropy_nats is None) == (seal == 0)
    assert len(facts.retained) == (3 if seal else 0)
