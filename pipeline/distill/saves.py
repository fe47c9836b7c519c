"""The checkpoints of a training that is under way: when one is due, and whether the training pauses there."""

from __future__ import annotations

import time

from pipeline.distill.checkpoint_room import CheckpointRoom
from pipeline.distill.journal import Journal
from pipeline.distill.learner import Learner
from pipeline.pause import PausedError, PauseRequest


class Saves:
    """Asked after every step. A checkpoint holds all that a training needs, so a pause makes one first, and one that
    leaves no room for the next is a pause.

    While steps are skipped a checkpoint that is due waits for the next good step, so that the newest one does not hold
    weights that have gone bad.
    """

    def __init__(self, journal: Journal, learner: Learner, room: CheckpointRoom, pause: PauseRequest) -> None:
        self._journal, self._learner, self._room, self._pause = journal, learner, room, pause
        self._every, self._num_steps = learner.settings.checkpoint_every, learner.num_steps
        self._owed = False

    def after_step(self, done: int, ended: bool) -> str | PausedError | None:
        """Save where that is due after `done` steps, or the training has `ended`; returns why to pause now, or None."""
        reason: str | PausedError | None = None if ended else self._pause.reason()
        self._owed |= done % self._every == 0 or done == self._num_steps
        if reason or ended or (self._owed and self._learner.skipped_in_a_row == 0):
            started = time.monotonic()
            self._journal.save(done, self._learner)
            self._owed = False
            self._pause.note_save(time.monotonic() - started)
            reason = reason or (None if ended else self._room.shortage())
        return reason
