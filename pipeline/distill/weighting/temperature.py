"""The temperature of each step."""

from __future__ import annotations

from pipeline.distill.settings import TemperatureSettings
from pipeline.distill.weighting.ramp import ramp


def temperature_at(step: int, steps: int, settings: TemperatureSettings) -> float:
    """τ at `step` of `steps`: a ramp from `start` to `end`, exact at both; of the shape "constant", `start`."""
    return ramp(step, steps, settings.start, settings.end, settings.shape)
