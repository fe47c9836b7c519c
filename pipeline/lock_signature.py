"""Who holds a lock: a word the holder leaves in the lock's file for whoever is refused; nothing else reads it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import stat
import time
from collections.abc import Iterator

_SIGNED = re.compile(r"process (\d+) on (.+)")
_MOST_BYTES = 400
_LOOKS, _LOOK_SECONDS = 100, 0.005


@contextlib.contextmanager
def signed(descriptor: int) -> Iterator[None]:
    """Leave a word in the locked file for as long as the block lasts; a folder has none, nor a file on a full disk."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        yield
        return
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)


def told(descriptor: int) -> str | None:
    """` It is process 4711 on this-host.`, of a file that another process holds; empty where that does not say.

    One that has just got the lock is given a moment to sign; a word that a killed one left is not taken for its. None
    where it lets go meanwhile: the lock is ours then.
    """
    with contextlib.suppress(OSError):
        for _ in range(_LOOKS):
            found = _SIGNED.fullmatch(os.pread(descriptor, _MOST_BYTES, 0).decode(errors="replace").strip())
            if found and not _is_gone(int(found[1]), found[2]):
                return f" It is {found[0]}."
            time.sleep(_LOOK_SECONDS)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return None
    return ""


def _is_gone(process: int, host: str) -> bool:
    """Whether it is known not to run any more."""
    if host == socket.gethostname():
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        except OSError:  # another user's
            return False
    return False
