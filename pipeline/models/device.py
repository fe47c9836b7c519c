"""Is this machine's card fit for the work, and in what precision should a model run on it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import re
import resource
import shutil
import sys
from collections.abc import Iterator, Sequence

import torch

from pipeline.console import warn_once
from pipeline.errors import MachineError
from pipeline.models.memory import memory_errors
from pipeline.models.settings import Device, Dtype

Capability = tuple[int, int]
BFLOAT16_CAPABILITY: Capability = (8, 0)
IN_EVERY_WHEEL_FROM: Capability = (7, 5)
_IN_A_WHEEL_FROM: Capability = (5, 0)
_OLDER_CARD = "Its kernels are only in the CUDA 12.6 wheels, up to PyTorch 2.14"
_LEAST_TORCH, _LAST_TORCH = (2, 10), (2, 14)
"""that this project runs on, and that has CUDA 12.6 wheels"""
_CUDA_12_6 = "https://download.pytorch.org/whl/cu126"
WHERE_BUILDS_ARE = "https://pytorch.org/get-started/locally/"
_TOO_OLD = "No wheel of PyTorch 2.10 or newer has kernels for a card older than capability 5.0"
_BUSY = "busy or unavailable"  # CUDA's words for a card that another process has for itself
_LIBRARIES = ("torch", "transformers", "numpy", "zarr", "numcodecs")


def choose_device(name: Device) -> torch.device:
    """The device to run on; `auto` takes a CUDA card where there is one, after checking that it works."""
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if name == "auto":
            _say_why_no_card()
            return torch.device("cpu")
        raise MachineError(
            f"teacher.device or student.device: 'cuda' was asked for and {_build()} sees no card. Set it to auto or "
            "cpu, or check the driver with nvidia-smi."
        )
    with beginning_on_card():
        device = torch.device("cuda", torch.cuda.current_device())
    check_cuda(device)
    return device


@contextlib.contextmanager
def beginning_on_card(card: str = "the card") -> Iterator[None]:
    """MachineError where a process gets no room, or no access at all, on a card that it takes up in the block."""
    fix = "nvidia-smi lists what uses it: end that, or wait for it (or set device to cpu)."
    try:
        with memory_errors(
            f"device: the memory of {card} is full before the work begins; another process holds the card. {fix}"
        ):
            yield
    except RuntimeError as error:
        if _BUSY not in str(error):
            raise
        raise MachineError(f"device: {card} is {_BUSY}: another process may have it for itself. {fix}") from error


def check_cuda(device: torch.device) -> None:
    """Compare the card with what this torch was built for, and run one real product; MachineError says the fix.

    A build without kernels for a card imports, allocates and copies without complaint: only work shows it.
    """
    capability = torch.cuda.get_device_capability(device)
    name = torch.cuda.get_device_name(device)
    built_for = torch.cuda.get_arch_list()
    if not build_supports(capability, built_for):
        raise MachineError(_no_kernels(name, capability, built_for))
    try:
        with beginning_on_card():
            ones = torch.ones(64, 64, device=device)
            total = float((ones @ ones).sum())
    except RuntimeError as error:
        raise MachineError(
            f"{_no_kernels(name, capability, built_for)} A first product failed with: {error}"
        ) from error
    if total != 64.0**3:
        raise MachineError(
            f"{name}: a product of ones gave {total} where 262,144 was expected; the card is not sound. "
            "Use another card, or set device to cpu."
        )


def build_supports(capability: Capability, built_for: Sequence[str]) -> bool:
    """Whether one of the architectures of a build ("sm_75", "compute_90") runs on a card of this capability.

    Machine code runs within its major version, from its minor version up; PTX (`compute_`) on anything newer.
    """
    for kind, digits in re.findall(r"\b(sm|compute)_(\d+)", " ".join(built_for)):
        major, minor = int(digits[:-1]), int(digits[-1])
        if kind == "sm" and major == capability[0] and minor <= capability[1]:
            return True
        if kind == "compute" and (major, minor) <= capability:
            return True
    return False


def cuda_12_6_command(torch_version: str) -> str:
    """What installs a torch that runs on cards from capability 5.0 to 9.0, and with every driver of CUDA 12.

    Where the version here will do in another build, that build of it is named: pip leaves 2.11.0+cu128 alone when asked
    for 2.10 to 2.14, whatever the index.
    """
    release = re.match(r"(\d+)\.(\d+)(\.\d+)*", torch_version)
    fits = release is not None and _LEAST_TORCH <= (int(release[1]), int(release[2])) <= _LAST_TORCH
    wanted = f"torch=={release[0]}+cu126" if release and fits else "torch>=2.10,<=2.14"
    return f'pip install "{wanted}" --index-url {_CUDA_12_6}'


def where_kernels_are(capability: Capability, torch_version: str) -> tuple[str, str]:
    """Of a card that this torch has no kernels for: which builds have them, and the command or step that helps."""
    if capability < _IN_A_WHEEL_FROM:
        return _TOO_OLD, "use another card"
    if capability < IN_EVERY_WHEEL_FROM:
        return _OLDER_CARD, cuda_12_6_command(torch_version)
    return "", f"Install a build for it: see {WHERE_BUILDS_ARE}"


def choose_dtype(setting: Dtype, device: torch.device) -> torch.dtype:
    """The precision of a model's weights: as set, or float32 on CPU, bfloat16 from capability 8.0, float16 below.

    `torch.cuda.is_bf16_supported` is not asked: it says yes to an emulation that is slower than float32.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return dtype_for(setting, capability)


def dtype_for(setting: Dtype, capability: Capability | None) -> torch.dtype:
    """`choose_dtype` for a card of some capability; None is a CPU."""
    if setting == "auto":
        if capability is None:
            return torch.float32
        return torch.bfloat16 if capability >= BFLOAT16_CAPABILITY else torch.float16
    if setting == "bfloat16" and capability is not None and capability < BFLOAT16_CAPABILITY:
        raise MachineError(
            f"teacher.dtype or train.dtype: bfloat16 needs a card of capability 8.0 or newer, this one has "
            f"{dotted(capability)}. Set it to float16, or to float32 where float16 overflows."
        )
    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[setting]


def device_class(device: torch.device) -> str:
    """What decides whether two machines give the same bytes: "cpu", or "cuda sm_75"."""
    if device.type != "cuda":
        return device.type
    major, minor = torch.cuda.get_device_capability(device)
    return f"cuda sm_{major}{minor}"


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory so far: allocated on the card, or (CPU) ever resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes


def environment(device: torch.device) -> dict[str, str]:
    """Where bytes were made: device and library versions; no clock and no host name."""
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {
        "device_class": device_class(device),
        "device_name": device_name(device),
        "python": platform.python_version(),
        **versions,
    }


def device_name(device: torch.device) -> str:
    """The card's name, or the kind of CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _say_why_no_card() -> None:
    """Where a card seems near, or torch is made for one, the CPU is not taken in silence."""
    if torch.version.cuda or shutil.which("nvidia-smi"):
        warn_once(
            f"device: auto runs on the CPU, because {_build()} sees no card it can use. If this machine has one, check "
            f"the driver with nvidia-smi, and that torch is a build for CUDA: {WHERE_BUILDS_ARE}"
        )


def _build() -> str:
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    return f"torch {torch.__version__} ({built})"


def _no_kernels(name: str, capability: Capability, built_for: list[str]) -> str:
    why, fix = where_kernels_are(capability, torch.__version__)
    return (
        f"{name}: has capability {dotted(capability)}, and torch {torch.__version__} was built for "
        f"{', '.join(built_for) or 'no card'}. {f'{why}: ' if why else ''}{fix} (or set device to cpu)."
    )


def dotted(capability: Capability) -> str:
    """A capability as NVIDIA writes it: 7.5."""
    return f"{capability[0]}.{capability[1]}"


def seed_device(device: torch.device, seed: int) -> None:
    """torch.manual_seed; where there is no card to seed, without asking every kind of device that torch knows of."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
