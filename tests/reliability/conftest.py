"""Fixtures of the suites: the toy project of the stages' tests, and a tally for each test."""

from __future__ import annotations

import pytest

from tests.reliability.tally import Tally
from tests.stages.conftest import _one_thread, cached, toy, trained  # noqa: F401 - fixtures


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """None of them belongs in the inner loop."""
    for item in items:
        if "tests/reliability/" in item.nodeid:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Where a test counts its points."""
    return Tally(request.node)
