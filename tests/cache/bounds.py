"""The largest errors of stored numbers, as the pages of their codecs state them; that of a head is its `error_nats`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.precisions import PRECISIONS, Rounded
from pipeline.cache.records import Records
from pipeline.cache.sampled_codec import FACT_LIMIT_NATS
from pipeline.cache.value_law import SPAN_NATS

DRAW_ERROR_NATS = {"lossless": 0.0, "fine": 1 / 16, "small": 1 / 8}
DRAW_SPAN_NATS = {"fine": 255 / 8, "small": 255 / 4}
"""A draw further below the row's best one is stored as about this far below"""
TAIL_ERROR_NATS = {"lossless": 0.0, "fine": 1 / 512, "small": 1 / 512}
FLOAT16_RELATIVE_ERROR = 2.0**-11
"""Of label log p and entropy, in float16's normal range: 6e-5 to 65,504"""
V1_VALUE_ERROR_NATS = 1 / 64
V1_TAIL_ERROR_NATS = 1 / 512


def sampled_fact_error_nats(facts: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of a label's −log p or an entropy of the kind `sampled`."""
    roots: NDArray[np.float64] = np.sqrt(np.clip(facts, 0.0, FACT_LIMIT_NATS).astype(np.float64))
    return roots / 16 + 1 / 1024


def kl_nats(exact: Records, found: Records, temperature: float) -> NDArray[np.float64]:
    """KL(exact ‖ found) over the K+1 outcomes of each softened target."""
    total_N = np.zeros(len(exact))
    for before, after in zip(exact.soften(temperature), found.soften(temperature), strict=True):
        p, q = (np.atleast_2d(x.astype(np.float64).T).T for x in (before, after))
        none = np.isneginf(p)
        total_N += (np.exp(p) * (np.where(none, 0.0, p) - np.where(none, 0.0, q))).sum(axis=1)
    return total_N


def check_bounds(before: Records, after: Records) -> None:
    """Every field of the stored records is as near as its precision promises."""
    name = before.layout.precision
    precision = PRECISIONS[name]
    assert [field.dtype for field in after.fields()] == [
        field.dtype for field in Records.blank(after.layout, 0).fields()
    ]
    assert np.array_equal(before.ids_TK, after.ids_TK)
    assert np.array_equal(before.draw_ids_TM, after.draw_ids_TM)
    if not isinstance(precision, Rounded):
        for one, other in zip(before.fields(), after.fields(), strict=True):
            assert one.tobytes() == np.ascontiguousarray(other).tobytes()
        return
    head_TK = np.maximum(before.logprobs_TK, before.logprobs_TK.max(axis=1, keepdims=True) - SPAN_NATS)
    assert (np.abs(after.logprobs_TK - head_TK) <= precision.error_nats(head_TK) + 1e-5).all()
    if before.layout.num_draws:
        best_T1 = before.draw_logprobs_TM.max(axis=1, keepdims=True, initial=-np.inf)
        near_TM = before.draw_logprobs_TM > best_T1 - DRAW_SPAN_NATS[name]
        error_TM = np.abs(after.draw_logprobs_TM - before.draw_logprobs_TM)
        scale_TM = 2.0**-22 * np.abs(before.draw_logprobs_TM)
        assert (error_TM <= DRAW_ERROR_NATS[name] + scale_TM)[near_TM].all()
    np.testing.assert_allclose(after.tail_TR, before.tail_TR, atol=TAIL_ERROR_NATS[name], rtol=2.0**-22)
    for fact in ("label_logprobs_T", "entropies_T"):
        pair = getattr(after, fact), getattr(before, fact)
        np.testing.assert_allclose(*pair, rtol=FLOAT16_RELATIVE_ERROR, atol=1e-7)
