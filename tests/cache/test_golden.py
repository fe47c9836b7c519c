"""A cache of every precision and format that was ever written still reads to the numbers it was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.cache import TeacherCache
from pipeline.cache.precisions import PRECISIONS
from pipeline.cache.verify import verify_cache
from tests.cache.bounds import (
    DRAW_ERROR_NATS,
    FLOAT16_RELATIVE_ERROR,
    TAIL_ERROR_NATS,
    V1_TAIL_ERROR_NATS,
    V1_VALUE_ERROR_NATS,
    sampled_fact_error_nats,
)
from tests.cache.golden import GOLDEN, LAYOUTS, TEMPERATURES

ROUNDED = 1e-5
FOLDERS = sorted(path.name for path in GOLDEN.iterdir() if (path / "cache").is_dir())


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> Path:
    return GOLDEN / str(request.param)


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    return value


def array_of(value: list[Any]) -> NDArray[np.float64]:
    """Numbers as they stand in expected.json, where null is −inf."""
    objects = np.array(value, dtype=object)
    return np.where(np.equal(objects, None), -np.inf, objects).astype(np.float64)


def bounds(folder: Path, logprobs_TK: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, float]:
    """Largest errors of head log-probs, draws and tail masses."""
    if folder.name == "cache-v1":
        return np.full_like(logprobs_TK, V1_VALUE_ERROR_NATS), V1_VALUE_ERROR_NATS, V1_TAIL_ERROR_NATS
    layout = TeacherCache.open(folder).plan.layout
    if layout.kind == "sampled":
        return np.zeros_like(logprobs_TK), 0.0, 0.0
    name = layout.precision
    return PRECISIONS[name].error_nats(logprobs_TK), DRAW_ERROR_NATS[name], TAIL_ERROR_NATS[name]


def assert_within(found: NDArray[Any], known: NDArray[np.float64], bound: Any, name: str) -> None:
    """Equal where −inf, and elsewhere no further apart than `bound`."""
    empty = np.isneginf(known)
    assert (np.isneginf(found.astype(np.float64)) == empty).all(), name
    error = np.abs(np.where(empty, 0.0, found) - np.where(empty, 0.0, known))
    assert (error <= bound + ROUNDED).all(), name


def test_none_is_missing() -> None:
    assert {"cache-v1", *LAYOUTS} == set(FOLDERS)


def test_every_byte_is_as_it_was_sealed(folder: Path, expected: dict[str, Any]) -> None:
    assert verify_cache(folder) == []
    assert TeacherCache.open(folder).plan.hash == expected["plan_hash"]


def test_sequences(folder: Path, expected: dict[str, Any]) -> None:
    sequences = TeacherCache.open(folder).sequences.select(slice(None))
    for name, value in expected["sequences"].items():
        assert getattr(sequences, name).tolist() == value


def test_records(folder: Path, expected: dict[str, Any]) -> None:
    cache = TeacherCache.open(folder)
    sequences, records = cache.read(np.arange(len(cache)))
    scored = sequences.loss_mask.reshape(-1)
    known = {name: array_of(value)[scored] for name, value in expected["records"].items()}
    head_TK, draws, tail = bounds(folder, known["logprobs_TK"])

    def fact(name: str) -> Any:
        """What rounding of a label's log-probability or of an entropy may come to."""
        size = np.abs(known[name].astype(np.float64))
        return sampled_fact_error_nats(size) if cache.plan.layout.kind == "sampled" else size * FLOAT16_RELATIVE_ERROR

    allowed = {"logprobs_TK": head_TK, "draw_logprobs_TM": draws, "tail_TR": tail}
    allowed |= {name: fact(name) for name in ("label_logprobs_T", "entropies_T")}
    allowed |= {"ids_TK": 0.0, "draw_ids_TM": 0.0}
    for name, bound in allowed.items():
        assert_within(getattr(records, name)[scored], known[name], bound, name)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_softened(folder: Path, expected: dict[str, Any], temperature: float) -> None:
    cache = TeacherCache.open(folder)
    sequences, records = cache.read(np.arange(len(cache)))
    if cache.plan.layout.kind == "sampled":
        if temperature == 1:
            np.testing.assert_allclose(records.soften(1.0)[0], records.logprobs_TK, atol=1e-6)
        else:
            with pytest.raises(ValueError, match="temperature must be 1"):
                records.soften(temperature)
        return
    scored = sequences.loss_mask.reshape(-1)
    worst = float(bounds(folder, array_of(expected["records"]["logprobs_TK"])[scored])[0].max())
    softened = expected["softened"][str(temperature)]
    for found, value in zip(records.soften(temperature), (softened["head"], softened["tail"]), strict=True):
        np.testing.assert_allclose(found[scored], array_of(value)[scored], atol=2 * worst + 0.003)
