"""The hub, asked only where a config names something of it that is not here."""

from __future__ import annotations

from pipeline.doctor.check import Check
from pipeline.models.source import hub_unreachable


class Hub:
    """Whether the hub answers; nothing is sent before somebody needs to know, and then once."""

    def __init__(self) -> None:
        self._asked = False
        self.problem = ""
        """why nothing can be fetched from it, once it was asked"""

    def answers(self) -> bool:
        """Whether something can be fetched from it."""
        if not self._asked:
            self._asked = True
            self.problem = hub_unreachable() or ""
        return not self.problem

    def check(self) -> Check:
        """What is known of the network by now; what fails for want of it is told elsewhere."""
        if not self._asked:
            return Check("network", "ok", "not asked: nothing of the hub is needed (--online asks)")
        if self.problem:
            return Check("network", "note", f"the hub cannot be asked: {self.problem}")
        return Check("network", "ok", "the hub answers")
