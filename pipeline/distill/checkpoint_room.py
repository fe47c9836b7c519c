"""Room for what a training writes, asked before it is computed: a checkpoint that finds none is lost work.

What it takes is known from the start. A training that goes on has room for one more checkpoint, and for best weights
beside it, so that it can always be paused; where that is not so after a checkpoint, it is paused there.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.console import warn_once
from pipeline.distill.keeping.checkpoint import KEPT
from pipeline.distill.learner import Learner
from pipeline.output_limit import KEY, OutputLimit, figure, folder_bytes
from pipeline.pause import NoRoomError

_CHECKPOINT, _MODEL = "a checkpoint of this training with its best weights", "the finished student"
_SMALLER, _NO_AVERAGE = ", or take a smaller student", ", or train.ema_decay: 0, which keeps no average"
_BYTES_BESIDE_A_TENSOR = 192  # its name, type and shape in the header of a file
_JSON_BYTES = 65_536  # state.json, COMMIT.json, and a page of metrics
IN_ANOTHER_SESSION = (
    "Nothing is lost: make this output an input of the next session, name its folder in cache.roots and train.roots, "
    "and go on in an empty run directory. Or make room here, or raise the limit (--max-output-gb)."
)
HERE = "Nothing is lost: make room here, or raise the limit (--max-output-gb), and run the same command again."


class CheckpointRoom:
    """Whether there is room for the next checkpoint of a learner's training, and for the model it ends with."""

    def __init__(
        self, output: OutputLimit, learner: Learner, tokenizer_folder: Path, way_on: str = IN_ANOTHER_SESSION
    ) -> None:
        """The model ends with the tokenizer of `tokenizer_folder`; `way_on` says what to do at the limit."""
        self._output, self._way_on = output, way_on
        self._smaller = _SMALLER if learner.average is None else _SMALLER + _NO_AVERAGE
        gate_bytes = sum(tensor.numel() * tensor.element_size() for tensor in learner.loss_weights.tensors().values())
        num_tensors = len(learner.weights()) * (1 + learner.checkpoint_bytes // learner.weights_bytes)
        beside_bytes = _BYTES_BESIDE_A_TENSOR * num_tensors + _JSON_BYTES
        self.next_bytes = learner.checkpoint_bytes + learner.weights_bytes + gate_bytes + beside_bytes
        """of a checkpoint and of best weights found before it"""
        self.model_bytes = learner.weights_bytes + folder_bytes(tokenizer_folder) + beside_bytes

    def check_beginning(self, checkpoints: Path, ended: bool) -> None:
        """NoRoomError where there is no room for what comes first, ConfigError where an empty folder has none either.

        That is a checkpoint, or the model where the steps have `ended`. A training that will not get to its end within
        the limit is told so.
        """
        needed_bytes, what, smaller = self.next_bytes, _CHECKPOINT, self._smaller
        if ended:
            needed_bytes, what, smaller = self.model_bytes, _MODEL, ""
        self._output.refuse_less_than(needed_bytes, what, f"Raise it{smaller}.")
        if shortage := self._ask(needed_bytes, what):
            raise shortage
        if ended or self._output.max_bytes is None:
            return
        others_bytes = self._output.used_bytes() - folder_bytes(checkpoints)
        most_bytes = (KEPT + 1) * self.next_bytes + self.model_bytes
        if others_bytes + most_bytes > self._output.max_bytes:
            warn_once(
                f"this training may be paused before its end: its checkpoints and its model take up to "
                f"{figure(most_bytes)}, and of {figure(self._output.max_bytes)} ({KEY}) {figure(others_bytes)} are "
                f"taken in {self._output.where} by other files"
            )

    def shortage(self) -> NoRoomError | None:
        """Why there is no room for one more checkpoint; None where there is."""
        return self._ask(self.next_bytes, _CHECKPOINT)

    def shortage_of_model(self) -> NoRoomError | None:
        """Why there is no room for the finished model; None where there is."""
        return self._ask(self.model_bytes, _MODEL)

    def _ask(self, needed_bytes: int, what: str) -> NoRoomError | None:
        reason = self._output.shortage(needed_bytes, what, self._way_on)
        return None if reason is None else NoRoomError(reason)
