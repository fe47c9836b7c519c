"""Suites that notice defects of more than one table."""

from __future__ import annotations

DOOR = "tests/reliability/test_door.py"
_MARKS = "tests/reliability/test_power.py::test_a_mark_comes_after_all_that_it_speaks_of"
MARKS_OF_CAPTURE, MARKS_OF_TRAINING = f"{_MARKS}[capture]", f"{_MARKS}[training]"
IDENTITY_TESTS = "tests/reliability/test_identity.py::test_"
