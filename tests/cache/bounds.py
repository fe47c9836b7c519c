"""The largest errors of stored numbers, as the pages of their codecs state them; that of a head is its `error_nats`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.sampled_codec import FACT_LIMIT_NATS

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
