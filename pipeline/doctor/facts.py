"""What a machine is, gathered in one place; what the facts mean is judged elsewhere, without a machine.

No network, nothing written, and no large allocation: the thorough form multiplies two matrices of 2,048 rows.
"""

from __future__ import annotations

import ctypes
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.doctor.libraries import installed_versions
from pipeline.errors import first_line
from pipeline.machine import Disk, HostMemory, cpu_name, disk_below, host_memory, usable_cores
from pipeline.models.device import Capability, build_supports, dtype_for
from pipeline.output_limit import folder_bytes
from pipeline.session import OF_A_NOTEBOOK

_CARD_ROWS, _CPU_ROWS = 2048, 512
_WORKING_FOLDER = ("working", "kaggle")  # of that host, and the folder it lies in
_KEPT_BY_THAT_HOST_BYTES = 20_000_000_000  # of its working folder; `df` speaks of terabytes there
_MAJOR, _MINOR = 75, 76  # what libcuda calls a card's capability


@dataclass(frozen=True, slots=True)
class Card:
    """A CUDA card as torch sees it."""

    name: str
    capability: Capability
    total_bytes: int
    free_bytes: int
    """0 where not even that can be asked; of another card than the one in use, `total_bytes`"""


@dataclass(frozen=True, slots=True)
class Driver:
    """What the NVIDIA driver says where torch sees no card."""

    cuda: tuple[int, int]
    """the newest CUDA it can run"""
    cards: tuple[tuple[str, Capability], ...]
    """name and capability"""


@dataclass(frozen=True, slots=True)
class Product:
    """A real product of two matrices: how fast it was, or why it failed."""

    dtype: str
    rows: int
    teraflops: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that is judged."""

    versions: Mapping[str, str | None]
    torch_cuda: str | None
    """the CUDA that torch was built with"""
    built_for: tuple[str, ...]
    """the architectures it was built for"""
    cards: tuple[Card, ...]
    """the one in use first"""
    driver: Driver | None
    """asked where torch sees no card, and only by the thorough form"""
    products: tuple[Product, ...]
    """none in the quick form"""
    cpu: str
    cores: int
    memory: HostMemory
    disk: Disk
    kept_bytes: int | None
    """what a notebook host will still keep of its working folder, where it says something else of its disk"""

    @property
    def torch(self) -> str:
        """Version of torch."""
        return self.versions["torch"] or "none"


def gather(folder: Path, thorough: bool = True) -> Machine:
    """The facts of this machine, for work in `folder`; the thorough form computes something, and asks the driver."""
    cards = _cards()
    return Machine(
        versions=installed_versions(),
        torch_cuda=torch.version.cuda,
        built_for=tuple(torch.cuda.get_arch_list()) if cards else (),
        cards=cards,
        driver=ask_driver(_libcuda()) if thorough and not cards else None,
        products=_products(cards) if thorough else (),
        cpu=cpu_name(),
        cores=usable_cores(),
        memory=host_memory(),
        disk=disk_below(folder),
        kept_bytes=_still_kept() if thorough and os.environ.get(OF_A_NOTEBOOK) else None,
    )


def ask_driver(library: Any) -> Driver | None:
    """Version and cards by the driver's own library; None where it has none, or does not answer."""
    version, count = ctypes.c_int(), ctypes.c_int()
    if library is None or library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    cuda = (version.value // 1000, version.value % 1000 // 10)
    if library.cuInit(0) != 0 or library.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return Driver(cuda, ())
    return Driver(cuda, tuple(_card_of_driver(library, index) for index in range(count.value)))


def _card_of_driver(library: Any, index: int) -> tuple[str, Capability]:
    name, card, major, minor = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    library.cuDeviceGet(ctypes.byref(card), index)
    library.cuDeviceGetName(name, len(name), card)
    library.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, card)
    library.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, card)
    return name.value.decode("utf-8", "replace"), (major.value, minor.value)


def _still_kept() -> int:
    here = Path.cwd()
    above = (place for place in (here, *here.parents) if (place.name, place.parent.name) == _WORKING_FOLDER)
    kept = next(above, here)
    return max(0, _KEPT_BY_THAT_HOST_BYTES - folder_bytes(kept))


def _libcuda() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def _cards() -> tuple[Card, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a card it was not built for torch says at length what is judged here
        if not torch.cuda.is_available():
            return ()
        found = []
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            found.append(Card(card.name, (card.major, card.minor), card.total_memory, _free_bytes(index)))
        used = torch.cuda.current_device()
        return (found[used], *found[:used], *found[used + 1 :])


def _free_bytes(index: int) -> int:
    if index != torch.cuda.current_device():  # to ask would begin work on a card that none is meant for
        return torch.cuda.get_device_properties(index).total_memory
    try:
        return int(torch.cuda.mem_get_info(index)[0])
    except RuntimeError:
        return 0


def _products(cards: tuple[Card, ...]) -> tuple[Product, ...]:
    """On the card, in float32 and in its own precision, where torch has kernels for it; else on the CPU."""
    if not cards:
        return (multiply(torch.device("cpu"), torch.float32, _CPU_ROWS),)
    if not build_supports(cards[0].capability, torch.cuda.get_arch_list()):
        return ()
    dtypes = (torch.float32, dtype_for("auto", cards[0].capability))
    return tuple(multiply(torch.device("cuda"), dtype, _CARD_ROWS) for dtype in dtypes)


def multiply(device: torch.device, dtype: torch.dtype, rows: int) -> Product:
    """Multiply matrices of ones, twice: the first product loads what it needs, the second is timed and checked."""
    name = str(dtype).removeprefix("torch.")
    try:
        ones = torch.ones(rows, rows, device=device, dtype=dtype)
        _finish(ones @ ones)
        started = time.perf_counter()
        _finish(product := ones @ ones)
        seconds = time.perf_counter() - started
        right = bool((product.double() == rows).all())
    except RuntimeError as error:
        return Product(name, rows, 0.0, first_line(error))
    if not right:
        return Product(name, rows, 0.0, f"ones times ones did not give {rows:,} everywhere: the card is not sound")
    return Product(name, rows, 2 * rows**3 / seconds / 1e12)


def _finish(product: torch.Tensor) -> None:
    if product.device.type == "cuda":
        torch.cuda.synchronize(product.device)
