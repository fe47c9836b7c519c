"""The temperature of each step."""

from __future__ import annotations

import math

from pipeline.distill.settings import TemperatureSettings


def temperature_at(step: int, steps: int, settings: TemperatureSettings) -> float:
    """τ at `step` of `steps`, from `start` at step 0 to `end` at step steps − 1, exact at both ends.

    linear: start + s·(end − start); cosine: the same with s = (1 − cos πs)/2; s = step/(steps − 1). A training of one
    step has `start`.
    """
    if step <= 0 or steps <= 1 or settings.start == settings.end:
        return settings.start
    if step >= steps - 1:
        return settings.end
    share = step / (steps - 1)
    if settings.shape == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    return settings.start + share * (settings.end - settings.start)
