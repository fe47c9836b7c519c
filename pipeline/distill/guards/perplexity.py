"""Perplexity, and where it stops meaning anything."""

from __future__ import annotations

import math

CAP_NATS = 20.0  # a perplexity above exp(20) says nothing more


def perplexity_of(nats: float) -> float:
    """exp of a mean cross-entropy, at most exp(CAP_NATS); NaN where that is not a number."""
    return math.nan if math.isnan(nats) else math.exp(min(nats, CAP_NATS))
