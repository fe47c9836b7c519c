"""A number that moves over a training: temperatures and weights of the loss."""

from __future__ import annotations

import math


def ramp(step: int, steps: int, start: float, end: float, shape: str) -> float:
    """The number at `step` of `steps`, from `start` at step 0 to `end` at step steps − 1, exact at both ends.

    linear: start + s·(end − start); cosine: the same with s = (1 − cos πs)/2; s = step/(steps − 1). A training of one
    step has `start`.
    """
    if step <= 0 or steps <= 1 or start == end:
        return start
    if step >= steps - 1:
        return end
    share = step / (steps - 1)
    if shape == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    return start + share * (end - start)
