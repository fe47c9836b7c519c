"""What a figure was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

_LIBRARIES = ("torch", "numpy", "zarr", "numcodecs")


def describe_machine() -> dict[str, Any]:
    """CPU, cores, threads, memory, card and library versions; no host name and no clock."""
    card = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": _usable_cores(),
        "threads": num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpu": None if card is None else card.name,
        "gpu_memory_gb": None if card is None else round(card.total_memory / 1e9, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


def num_threads() -> int:
    """Threads that this process computes with."""
    return torch.get_num_threads()


def share_threads(count: int) -> None:
    """Compute with `count` threads from here on, so that as many processes as cores can do the same."""
    torch.set_num_threads(count)


def _usable_cores() -> int:
    """Those this process may run on, where the system says."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
