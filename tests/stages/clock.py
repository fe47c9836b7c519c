"""Time that passes only where a test says so, and the flags of a budget."""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any

import pytest

from pipeline import pause
from pipeline import session as session_module
from stages import cache_teacher, train_student

HOUR = 3600.0


class Clock:
    """Time that passes only where a test says so; a command that is started begins at 0."""

    def __init__(self, patches: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self._patches = patches
        for stage in (cache_teacher, train_student):
            patches.setattr(stage, "time", self)
        for module in (pause, session_module):
            patches.setattr(module, "process_seconds", self.monotonic)

    def monotonic(self) -> float:
        """As of the module time."""
        return self.now

    def takes(self, seconds: float, where: type | ModuleType, method: str) -> None:
        """From now on a method, or a function of a module, takes so long."""
        real = getattr(where, method)

        def slow(*arguments: Any, **keywords: Any) -> Any:
            result = real(*arguments, **keywords)
            self.now += seconds
            return result

        self._patches.setattr(where, method, slow)


def hours(seconds: float) -> list[str]:
    """The flag of a budget."""
    return ["--time-budget", f"{seconds / HOUR:.9f}"]


def session(began_seconds_ago: float, budget_seconds: float) -> list[str]:
    """The flags of a command that begins late in its session."""
    return ["--session-start", f"{time.time() - began_seconds_ago:.0f}", *hours(budget_seconds)]
