"""Commands at work in other processes: waiting for what they do, and what runs of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.stages.toys import sealed


def wait_for(condition: Callable[[], bool]) -> None:
    """Return as soon as it is so."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.002)


def wait_for_seals(run_dir: Path, count: int) -> None:
    """Return as soon as `count` shards are sealed."""
    wait_for(lambda: sealed(run_dir) >= count)


def children(process: BaseProcess) -> list[int]:
    """Process ids of those that work for it: one more child keeps account of what processes share."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
    return [pid for pid in map(int, found) if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()]


def is_running(pid: int) -> bool:
    """Whether there is such a process; one that has ended and that nobody has asked about does not run."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
