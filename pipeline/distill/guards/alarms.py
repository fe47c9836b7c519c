"""Figures of a training that are a sign of trouble; each is said once."""

from __future__ import annotations

from pipeline.console import warn_once
from pipeline.distill.loss.routing import PARTS
from pipeline.distill.step_result import StepResult

HIGH_NATS, VERY_HIGH_NATS = 10.0, 20.0
VERY_HIGH_FROM = 1000
HIGH_NORM = 10.0
FULL_SHARE = 0.9


class Alarms:
    """Watches the steps of one start of a training. No loss is too low: a student may be as good as its teacher."""

    def __init__(self, warmup_steps: int) -> None:
        self._warmup_steps = warmup_steps
        self._raised: set[str] = set()

    def hear(self, step: int, result: StepResult) -> None:
        """Look at what step number `step` (from 1) found. Not-finite figures are the finite guard's to tell."""
        if result.skipped:
            return
        warm = step > self._warmup_steps
        for part in PARTS:
            nats = getattr(result, part, None) or 0.0
            if nats > HIGH_NATS and warm:
                self._raise(
                    f"high {part}",
                    f"step {step:,}: the {part} part of the loss is {nats:.1f} nats a position, above "
                    f"{HIGH_NATS:.0f} after warm-up. A lower train.learning_rate or a longer train.warmup_steps may "
                    "help (a student that has learned nothing is at ln V, 10.8 for 49,152 ids)",
                )
            if nats > VERY_HIGH_NATS and step > VERY_HIGH_FROM:
                self._raise(
                    f"very high {part}",
                    f"step {step:,}: the {part} part of the loss is {nats:.1f} nats a position, above "
                    f"{VERY_HIGH_NATS:.0f} after step {VERY_HIGH_FROM:,}; this training has diverged, or learns from a "
                    "cache that is not of its tokenizer. Stop it, and begin anew with a lower train.learning_rate",
                )
        if result.gradient_norm > HIGH_NORM:
            when, what = (
                ("after", "Where that keeps on, lower train.learning_rate")
                if warm
                else ("in", "That often passes; it is said once more if it is so after it")
            )
            self._raise(
                f"norm {when} warm-up",
                f"step {step:,}: the gradient's norm is {result.gradient_norm:.1f} before clipping, above "
                f"{HIGH_NORM:.0f} {when} warm-up. {what}",
            )

    def hear_memory(self, share: float | None) -> None:
        """Look at the share of a card's memory in use; None on a machine without one."""
        if share is not None and share > FULL_SHARE:
            self._raise(
                "memory",
                f"{share:.0%} of the card's memory is in use, above {FULL_SHARE:.0%}; a fuller batch may not fit. "
                "Where it runs out, train.gradient_checkpointing: true may be set at any time; another "
                "train.batch_size takes a new run, with --fork-from",
            )

    def _raise(self, name: str, words: str) -> None:
        if name not in self._raised:
            self._raised.add(name)
            warn_once(words)
