"""Peak memory is measured in a process of its own, and is what the work holds at once."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.benches.peak import peak_extra_bytes
from pipeline.errors import MachineError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the account is Linux's")

HERE = "tests.benches.test_peak"


def blocks(megabytes: int, at_once: bool, device: str = "cpu") -> Callable[[], object]:
    """Work that touches 4 blocks, all at once or one after another."""

    def work() -> object:
        if at_once:
            return [np.ones(megabytes * 125_000) for _ in range(4)]
        return [float(np.ones(megabytes * 125_000).sum()) for _ in range(4)]

    return work


def refuse(device: str = "cpu") -> Callable[[], object]:
    """No work."""
    raise ValueError("nothing to do")


@pytest.mark.parametrize(("at_once", "expected_mb"), [(True, 80.0), (False, 20.0)])
def test_the_peak_is_what_is_held_at_once(at_once: bool, expected_mb: float) -> None:
    found = peak_extra_bytes(HERE, "blocks", megabytes=20, at_once=at_once)
    assert found / 1e6 == pytest.approx(expected_mb, abs=2.0)


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(MachineError, match="nothing to do"):
        peak_extra_bytes(HERE, "refuse")
