"""How much memory a piece of work takes beyond what it is given: the most, measured in a process of its own.

On CPU by the kernel's own account (Linux): VmHWM of /proc/self/status, the most that was ever resident, is set back by
writing 5 to /proc/self/clear_refs (proc(5)) just before the work and read just after it. It counts what an
allocator's account leaves out, such as a matrix product's scratch. For that to be exact the process must give freed
memory back: glibc does so for blocks from MALLOC_MMAP_THRESHOLD_ on, which is set low. On a card PyTorch's allocator
keeps the account.

`python -m pipeline.benches.peak MODULE FUNCTION ARGUMENTS` is that process: the function is called with the JSON
object of arguments and returns the work.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.errors import MachineError

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MMAP_FROM_BYTES = 65_536


def peak_extra_bytes(module: str, function: str, **arguments: Any) -> int:
    """The most memory that the work made by `function` of `module` took at once, beyond what there was before it.

    `function(**arguments)` prepares everything, runs the work once at a small size where that loads libraries, and
    returns the work. MachineError where the machine keeps no account, or the process ends badly.
    """
    if arguments.get("device") != "cuda" and not _CLEAR.exists():
        raise MachineError("bench: the peak memory of a CPU is measured on Linux alone; use --device cuda, or Linux")
    command = [sys.executable, "-m", "pipeline.benches.peak", module, function, json.dumps(arguments)]
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": str(_MMAP_FROM_BYTES),
        "MALLOC_TRIM_THRESHOLD_": "0",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MachineError(
            f"bench: measuring the memory of {module}.{function} ended with {done.returncode} (−9: the memory ran "
            f"out; ask for smaller sizes): {done.stderr.strip()[-2000:]}"
        )
    return int(done.stdout)


def measure(work: Callable[[], object], device: str = "cpu") -> int:
    """Bytes that `work` takes at its peak in this process; what it returns is alive at the end."""
    if device == "cuda":
        return _measure_on_card(work)
    gc.collect()
    _CLEAR.write_text("5")
    before = _resident("VmRSS")
    kept = work()
    peak = _resident("VmHWM")
    del kept
    return max(0, peak - before)


def _measure_on_card(work: Callable[[], object]) -> int:
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = work()
    torch.cuda.synchronize()
    del kept
    return torch.cuda.max_memory_allocated() - before


def _resident(name: str) -> int:
    [line] = [line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def _main(module: str, function: str, arguments: str) -> None:
    given = json.loads(arguments)
    work = getattr(importlib.import_module(module), function)(**given)
    sys.stdout.write(f"{measure(work, given.get('device', 'cpu'))}\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
