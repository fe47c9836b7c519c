"""The learning rate of each step: linear warm-up, then half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983)."""

from __future__ import annotations

import math

from pipeline.distill.settings import TrainSettings


def learning_rate_at(step: int, steps: int, settings: TrainSettings) -> float:
    """Learning rate at `step` of `steps`.

    Rises in `warmup_steps` equal steps, none of them 0, to the peak `learning_rate` at step `warmup_steps`; from there
    falls as a cosine to `final_learning_rate_ratio` of the peak, reached at step steps − 1.
    """
    peak, warmup = settings.learning_rate, settings.warmup_steps
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    share = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    ratio = settings.final_learning_rate_ratio
    return peak * (ratio + (1 - ratio) * (1 + math.cos(math.pi * share)) / 2)
