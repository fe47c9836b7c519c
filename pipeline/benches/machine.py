"""What a figure was measured on."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import torch

from pipeline.machine import cpu_name, host_memory, usable_cores

_LIBRARIES = ("torch", "numpy", "zarr", "numcodecs")


def describe_machine() -> dict[str, Any]:
    """CPU, cores, threads, memory, card and library versions; no host name and no clock."""
    card = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(host_memory().total_bytes / 1e9, 1),
        "gpu": None if card is None else card.name,
        "gpu_memory_gb": None if card is None else round(card.total_memory / 1e9, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
    }
