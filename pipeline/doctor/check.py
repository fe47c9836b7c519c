"""One thing that was looked at: whether it is fit, what was found and expected, and what helps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["ok", "note", "fault"]
"""note: works, and is worth knowing; fault: what was asked cannot work here"""


@dataclass(frozen=True, slots=True)
class Check:
    """A line of the doctor's."""

    name: str
    state: State
    found: str
    expected: str = ""
    """empty where what was found says it all"""
    fix: str = ""
    """a command to type, or a step to take; empty where there is nothing to do"""

    @property
    def line(self) -> str:
        """As people read it."""
        expected = f"; expected: {self.expected}" if self.expected else ""
        fix = f" -> {self.fix}" if self.fix else ""
        return f"{self.state:<6} {self.name:<9} {self.found}{expected}{fix}"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return dataclasses.asdict(self)


def faults(checks: Iterable[Check]) -> list[Check]:
    """Those that make the machine unfit."""
    return [check for check in checks if check.state == "fault"]
