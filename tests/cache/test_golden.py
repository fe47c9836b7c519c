"""A cache of every format version that was ever written still reads to the numbers it was written from."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from pipeline.cache import TeacherCache, codec
from pipeline.cache.verify import verify_cache
from tests.cache.golden import FOLDER, TEMPERATURES

BOUNDS = {
    "ids_TK": 0.0,
    "draw_ids_TM": 0.0,
    "logprobs_TK": codec.VALUE_ERROR_NATS,
    "draw_logprobs_TM": codec.VALUE_ERROR_NATS,
    "tail_TR": codec.TAIL_ERROR_NATS,
    "label_logprobs_T": 16 * codec.FLOAT16_RELATIVE_ERROR,
    "entropies_T": 16 * codec.FLOAT16_RELATIVE_ERROR,
}
ROUNDED = 1e-5


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    value: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())
    return value


def test_every_byte_is_as_it_was_sealed(expected: dict[str, Any]) -> None:
    assert verify_cache(FOLDER) == []
    assert TeacherCache.open(FOLDER).plan.hash == expected["plan_hash"]


def test_sequences(expected: dict[str, Any]) -> None:
    sequences = TeacherCache.open(FOLDER).sequences
    for name, value in expected["sequences"].items():
        assert getattr(sequences, name).tolist() == value


def test_records(expected: dict[str, Any]) -> None:
    cache = TeacherCache.open(FOLDER)
    sequences, records = cache.read(np.arange(len(cache)))
    scored = sequences.loss_mask.reshape(-1)
    for name, bound in BOUNDS.items():
        found = getattr(records, name)[scored]
        np.testing.assert_allclose(found, np.array(expected["records"][name])[scored], atol=bound + ROUNDED, rtol=0)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_softened(expected: dict[str, Any], temperature: float) -> None:
    cache = TeacherCache.open(FOLDER)
    sequences, records = cache.read(np.arange(len(cache)))
    scored = sequences.loss_mask.reshape(-1)
    softened = expected["softened"][str(temperature)]
    for found, value in zip(records.soften(temperature), (softened["head"], softened["tail"]), strict=True):
        np.testing.assert_allclose(found[scored], np.array(value)[scored], atol=2 * codec.VALUE_ERROR_NATS + 0.003)
