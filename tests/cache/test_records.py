"""Records in memory, and softening against the dense formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import Records, tail_weights
from pipeline.cache.settings import BETAS
from tests.cache.dense import log_softmax, log_sum, logits_of, records_of, tail_mask

TEMPERATURES = (1.0, 1.05, 1.3, 1.6, 2.0, 2.5, 3.0, 3.5, 4.0)


@pytest.mark.parametrize("beta", BETAS)
def test_weights_are_one_hot_at_a_stored_beta(beta: float) -> None:
    assert tail_weights(BETAS, beta).tolist() == [float(stored == beta) for stored in BETAS]


@pytest.mark.parametrize("beta", [0.25, 0.3, 0.55, 0.8, 0.97])
def test_weights_reproduce_polynomials_up_to_their_degree(beta: float) -> None:
    coefficients = [3.0, -2.0, 5.0, 1.5, -4.0, 2.0]
    values = np.polynomial.polynomial.polyval(np.array(BETAS), coefficients)
    assert tail_weights(BETAS, beta) @ values == pytest.approx(np.polynomial.polynomial.polyval(beta, coefficients))


def _row_kinds() -> dict[str, tuple[np.ndarray, float]]:
    """Logits of a kind of rows, and the error in nats that softening them may have."""
    generator = np.random.default_rng(1)
    sharp = logits_of(20, 2000)
    sharp[:, 7] += 40
    kinks = np.full((4, 2000), -30.0)
    kinks[:, :1000], kinks[:, 3], kinks[:, 1500:1510] = 2.0, 12.0, 6.0
    far = logits_of(4, 2000)
    far[:, ::2] = -1e4
    return {
        "falling": (logits_of(20, 2000), 0.003),
        "flat": (np.zeros((2, 2000)), 0.003),
        "noise": (generator.normal(size=(20, 2000)), 0.003),
        "sharp": (sharp, 0.003),
        "kinks": (kinks, 0.013),
        "far": (far, 0.003),
    }


@pytest.mark.parametrize("kind", _row_kinds())
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_soften_is_the_dense_softmax_at_that_temperature(kind: str, temperature: float) -> None:
    logits_NV, bound = _row_kinds()[kind]
    layout = RecordLayout(2000, 32, 4)
    records = records_of(layout, logits_NV)
    logp_head_NK, logp_tail_N = records.soften(temperature)

    dense_NV = log_softmax(logits_NV, 1 / temperature)
    expected_tail_N = log_sum(dense_NV, tail_mask(layout, logits_NV))
    expected_head_NK = np.take_along_axis(dense_NV, records.ids_TK.astype(np.int64), axis=1)
    assert logp_head_NK.dtype == logp_tail_N.dtype == np.float32
    np.testing.assert_allclose(logp_tail_N, expected_tail_N, atol=bound, rtol=1e-5)
    np.testing.assert_allclose(logp_head_NK, expected_head_NK, atol=bound, rtol=1e-5)
    total_N = np.exp(logp_head_NK.astype(np.float64)).sum(axis=1) + np.exp(logp_tail_N.astype(np.float64))
    np.testing.assert_allclose(total_N, 1.0, atol=1e-5)


@pytest.mark.parametrize(("vocab_size", "head_size"), [(1, 1), (2, 5), (40, 40)])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_soften_without_a_tail(vocab_size: int, head_size: int, temperature: float) -> None:
    logits_NV = logits_of(6, vocab_size)
    layout = RecordLayout.for_vocabulary(vocab_size, head_size, 16, 0.7)
    logp_head_NK, logp_tail_N = records_of(layout, logits_NV).soften(temperature)
    assert np.isneginf(logp_tail_N).all()
    np.testing.assert_allclose(logp_head_NK, log_softmax(logits_NV, 1 / temperature), atol=1e-5)


def test_soften_with_padded_head_entries() -> None:
    logits_NV = logits_of(3, 40)
    records = records_of(RecordLayout(40, 8, 2), logits_NV)
    records.logprobs_TK[:, -2:] = -np.inf
    logp_head_NK, logp_tail_N = records.soften(2.0)
    assert np.isneginf(logp_head_NK[:, -2:]).all()
    assert np.isfinite(logp_tail_N).all()


@pytest.mark.parametrize("temperature", [0.0, 0.999, 4.001, -1.0, math.inf, math.nan])
def test_soften_refuses_temperatures_it_knows_nothing_of(temperature: float) -> None:
    with pytest.raises(ValueError, match=r"temperature must be in \[1, 4\]"):
        Records.blank(RecordLayout(10, 4, 2), 3).soften(temperature)


def test_blank_records_soften_to_finite_numbers() -> None:
    logp_head_TK, logp_tail_T = Records.blank(RecordLayout(10, 4, 2), 3).soften(2.0)
    assert np.isfinite(logp_head_TK).all()
    assert np.isfinite(logp_tail_T).all()


def test_no_positions_at_all() -> None:
    records = Records.blank(RecordLayout(10, 4, 2), 0)
    assert len(records) == 0
    assert records.soften(2.0)[0].shape == (0, 4)


def test_rows_and_concatenate() -> None:
    records = records_of(RecordLayout(40, 8, 2), logits_of(9, 40))
    again = Records.concatenate(
        [records.rows(slice(0, 4)), records.rows(np.array([4, 5])), records.rows(np.arange(9) > 5)]
    )
    assert all(np.array_equal(field, other) for field, other in zip(records.fields(), again.fields(), strict=True))
    with pytest.raises(ValueError, match="one layout"):
        Records.concatenate([records, Records.blank(RecordLayout(41, 8, 2), 1)])
    with pytest.raises(ValueError, match="one layout"):
        Records.concatenate([])


def test_shapes_are_checked() -> None:
    blank = Records.blank(RecordLayout(40, 8, 2), 5)
    with pytest.raises(ValueError, match=r"logprobs_TK must have shape \(5, 8\), found \(5, 7\)"):
        Records(blank.layout, blank.ids_TK, blank.logprobs_TK[:, 1:], *blank.fields()[2:])
