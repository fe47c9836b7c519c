"""A machine as its operating system tells of it: processor, memory, disk; what needs torch is asked elsewhere."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

_NO_LIMIT_BYTES = 2**60  # what the first kind of control groups says where there is no limit is larger


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Bytes of main memory this process may use."""

    total_bytes: int
    """of the machine, or of the container it runs in"""
    free_bytes: int
    """to be had without swapping"""


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk below a folder."""

    folder: Path
    free_bytes: int | None
    """None where nobody says"""
    writable: bool


def usable_cores() -> int:
    """Those this process may run on, where the system says."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """What the processor calls itself."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def host_memory(root: Path = Path("/")) -> HostMemory:
    """Main memory, within the limit of a container; `root` is where the system's own folders are found."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = total
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal":
            total = int(value.split()[0]) * 1024
        elif name == "MemAvailable":
            free = int(value.split()[0]) * 1024
    limit, used = _container_memory(root / "sys/fs/cgroup")
    if limit is not None:
        total, free = min(total, limit), min(free, limit - used)
    return HostMemory(total, max(0, min(total, free)))


def disk_below(folder: Path) -> Disk:
    """The disk that `folder` is on, or would be on."""
    return Disk(folder, free_below(folder), os.access(_nearest(folder), os.W_OK))


def free_below(folder: Path) -> int | None:
    """Bytes that are free on the disk that `folder` is on, or would be on; None where its file system does not say."""
    try:
        usage = shutil.disk_usage(_nearest(folder))
    except OSError:
        return None
    return usage.free if usage.total else None  # some in user space say 0 of everything


def _nearest(folder: Path) -> Path:
    """The folder, or the one above it that is there, as far as this user may look."""
    place = folder.absolute()
    while not _is_there(place):
        place = place.parent
    return place


def _is_there(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:  # below a folder of somebody else's
        return False


def _container_memory(groups: Path) -> tuple[int | None, int]:
    """Limit and use of a container, by control groups of the second kind or the first; files it could drop are free."""
    for folder, limit_name, used_name in (
        (groups, "memory.max", "memory.current"),
        (groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit, used = _text(folder / limit_name).strip(), _text(folder / used_name).strip()
        if limit.isdecimal() and int(limit) < _NO_LIMIT_BYTES:
            statistics = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
            return int(limit), int(used or 0) - int(statistics.get("inactive_file", 0))
    return None, 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
