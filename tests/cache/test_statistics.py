"""Statistics against the dense formula, and however the records were cut."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import Records
from pipeline.cache.statistics import Statistics, StatisticsSum, merge
from tests.cache.dense import log_softmax, logits_of, records_of, tail_mask

LAYOUT = RecordLayout(400, 32, 4)
MASK = np.random.default_rng(0).random((12, 8)) < 0.7
LOGITS = logits_of(96, 400)
RECORDS = records_of(LAYOUT, LOGITS)


def _part(start: int, stop: int) -> tuple[Records, np.ndarray]:
    return RECORDS.rows(slice(start * 8, stop * 8)), MASK[start:stop]


def statistics_of(records: Records, mask_ST: np.ndarray) -> Statistics:
    """Of whole sequences at once."""
    total = StatisticsSum()
    total.add(records, mask_ST)
    return total.result()


def test_against_the_dense_formula() -> None:
    statistics = statistics_of(RECORDS, MASK)
    scored = MASK.reshape(-1)
    logp_NV = log_softmax(LOGITS)[scored]
    assert statistics["num_scored"] == scored.sum()
    assert statistics["entropy_mean_nats"] == pytest.approx(-(np.exp(logp_NV) * logp_NV).sum(axis=1).mean(), rel=1e-5)
    assert statistics["label_logprob_mean_nats"] == pytest.approx(logp_NV[:, 0].mean(), rel=1e-5)
    for temperature in (1, 2, 3):
        p_NV = np.exp(log_softmax(LOGITS, 1 / temperature))
        retained_N = np.where(tail_mask(LAYOUT, LOGITS), 0, p_NV).sum(axis=1)[scored]
        assert statistics[f"retained_mass_mean_tau_{temperature}"] == pytest.approx(retained_N.mean(), abs=1e-3)
        assert statistics[f"retained_mass_median_tau_{temperature}"] == pytest.approx(np.median(retained_N), abs=0.015)
        assert sum(statistics[f"retained_mass_histogram_tau_{temperature}"]) == scored.sum()


def test_the_cut_into_parts_changes_no_bit() -> None:
    whole = json.dumps(statistics_of(RECORDS, MASK))
    for cuts in ([0, 5, 12], [0, 1, 2, 3, 12], list(range(13))):
        total = StatisticsSum()
        for start, stop in pairwise(cuts):
            total.add(*_part(start, stop))
        assert json.dumps(total.result()) == whole


def test_merged_shards_speak_as_one() -> None:
    parts = [statistics_of(*_part(start, stop)) for start, stop in ((0, 3), (3, 4), (4, 12))]
    merged, whole = merge(parts), statistics_of(RECORDS, MASK)
    assert merged.keys() == whole.keys()
    for name, value in whole.items():
        assert merged[name] == pytest.approx(value)


@pytest.mark.parametrize("sequences", [0, 3])
def test_nothing_scored(sequences: int) -> None:
    statistics = statistics_of(Records.blank(LAYOUT, sequences * 8), np.zeros((sequences, 8), bool))
    assert statistics["num_scored"] == 0
    assert statistics["retained_mass_median_tau_2"] == 0.0
    both = merge([statistics, statistics_of(RECORDS, MASK)])
    assert both["entropy_mean_nats"] == pytest.approx(statistics_of(RECORDS, MASK)["entropy_mean_nats"])


def test_nothing_to_merge() -> None:
    assert merge([]) == {"num_scored": 0}


def test_a_head_that_is_the_whole_vocabulary_retains_everything() -> None:
    logits_NV = logits_of(8, 20)
    statistics = statistics_of(records_of(RecordLayout(20, 20, 0), logits_NV), np.ones((1, 8), bool))
    assert statistics["retained_mass_mean_tau_3"] == 1.0
    assert statistics["retained_mass_histogram_tau_3"][-1] == 8
