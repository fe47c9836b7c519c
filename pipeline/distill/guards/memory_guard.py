"""Keeps a training within a card's memory: smaller pieces of the same step, before and after it runs out.

First the output matrix takes fewer positions at once, down to 256: below that a chunk's logits are smaller than the
gradient of the matrix, which every chunk writes once more. Then a micro-batch is cut by rows, so that a step has more
passes of fewer sequences; and where a pass has one sequence, the chunk again, down to 64. The effective batch and its
normaliser stay, so what is learned is the same but for rounding. A validation takes the same pieces. The decisions are
part of a checkpoint; with `train.memory_guard: 0` a resumed training begins with the pieces that the config names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from pipeline.console import format_bytes, warn_once
from pipeline.distill.settings import TrainSettings
from pipeline.errors import MachineError
from pipeline.models.memory import is_out_of_memory, memory_errors

CHUNK_BEFORE_ROWS, SMALLEST_CHUNK = 256, 64
ResultT = TypeVar("ResultT")
Probe = Callable[[], tuple[int, int]]
"""Bytes in use at most since it was last asked to forget, and bytes there are"""


def card_probe(device: torch.device) -> Probe | None:
    """What a card's memory holds at most: our own tensors at their peak, and what is not ours; None for a CPU."""
    if device.type != "cuda":
        return None

    def probe() -> tuple[int, int]:
        free, total = torch.cuda.mem_get_info(device)
        others = max(0, total - free - torch.cuda.memory_reserved(device))
        return others + torch.cuda.max_memory_allocated(device), total

    return probe


class MemoryGuard:
    """In which pieces a step is computed; they only ever get smaller."""

    def __init__(self, settings: TrainSettings, device: torch.device) -> None:
        self._limit, self._rows, self._accumulation = settings.memory_guard, settings.batch_size, settings.accumulation
        self._device, self._probe = device, card_probe(device)
        self._configured = settings.chunk_positions
        self.chunk_positions = settings.chunk_positions
        """positions that go through the output matrix at once"""
        self.parts = 1
        """what each micro-batch is cut into, by rows"""
        self.step_share: float | None = None
        """of the card's memory that was in use at most when the last step ended, before a piece was cut for it; None
        without a card, and before the first step"""

    def rows(self) -> int:
        """How many sequences go through the model at once."""
        return -(-self._rows // self.parts)

    def watch(self) -> None:
        """After a step: make the pieces smaller where the memory is fuller than `train.memory_guard`."""
        if self._probe is None:
            return
        used, total = self._probe()
        self.step_share = used / total
        if self._limit == 0 or used <= self._limit * total:
            return
        why = f"{format_bytes(used)} of the card's {format_bytes(total)} are in use, above {self._limit:.0%}"
        if not self._shrink(f"{why} (train.memory_guard)"):
            warn_once(f"above {self._limit:.0%} of the card's memory is in use, and nothing is left to cut smaller")

    def make_room(self, what: str = "step") -> None:
        """After the memory ran out in a step or in `what`: smaller pieces, or MachineError where there are none."""
        if not self._shrink(f"the card's memory ran out in this {what}, which is done again"):
            raise MachineError(
                f"the card's memory ran out with {self.rows()} sequence a pass and {self.chunk_positions:,} positions "
                f"through the output matrix at once: there is nothing left to cut smaller. {_FIXES}"
            )

    def until_it_fits(self, validation: Callable[[], ResultT]) -> ResultT:
        """Do a validation; where the memory runs out, again in smaller pieces, or MachineError where there are none."""
        while True:
            try:
                return validation()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            self.make_room("validation")  # here no frame of what failed holds its tensors any more

    def fits(self, what: str) -> contextlib.AbstractContextManager[None]:
        """MachineError where the memory runs out in `what`, of which nothing can be cut smaller."""
        return memory_errors(f"the card's memory ran out in {what}, where smaller pieces are no help. {_FIXES}")

    def state(self) -> dict[str, int]:
        """The decisions, for a checkpoint."""
        return {"chunk_positions": self.chunk_positions, "of": self._configured, "parts": self.parts}

    def load(self, state: dict[str, Any] | None) -> None:
        """Go on with the decisions of a checkpoint; a guard that is off takes none.

        A chunk that was never cut smaller is no decision: the config's counts, as it does where that is smaller still.
        """
        if state is None or not self._limit:  # None: a checkpoint of before there were any
            return
        if state["chunk_positions"] != state.get("of"):
            self.chunk_positions = min(self.chunk_positions, int(state["chunk_positions"]))
        self.parts = int(state["parts"])

    def _shrink(self, why: str) -> bool:
        """Make one piece smaller and say so; False where none can be."""
        before, rows = self.chunk_positions, self.rows()
        smallest = CHUNK_BEFORE_ROWS if rows > 1 else SMALLEST_CHUNK
        if before > smallest:
            self.chunk_positions = max(smallest, before // 2)
            what = f"the output matrix takes {self.chunk_positions:,} positions at once instead of {before:,}"
        elif rows > 1:
            while self.rows() == rows:
                self.parts *= 2
            passes = self._accumulation * -(-self._rows // self.rows())
            what = f"a step is {passes:,} passes of {self.rows()} sequences instead of {rows}, its batch stays the same"
        else:
            return False
        warn_once(f"{why}: from here on {what}")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
        return True


_FIXES = (
    "Set train.gradient_checkpointing: true (or train.ema_device: host, where an average is kept) and run again: it "
    "goes on from the newest checkpoint. Or end other programs that use the card (nvidia-smi lists them), choose a "
    "smaller student, or, with --fork-from into a new run, train.dtype: float16"
)
