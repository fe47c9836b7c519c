"""Machines as facts: one that is fit, and what differs on others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pipeline.doctor.facts import Card, Driver, Machine, Product
from pipeline.machine import Disk, HostMemory

GB = 1_000_000_000
WHEEL_12_6 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
WHEEL_12_8 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
VERSIONS = {
    "torch": "2.11.0+cu128",
    "transformers": "5.16.0",
    "numcodecs": "0.16.6",
    "zarr": "3.1.6",
    "numpy": "2.1.3",
    "datasets": "4.0.0",
    "pyarrow": "23.0.1",
    "google-crc32c": "1.8.0",
    "click": "8.3.1",
    "safetensors": "0.7.0",
    "pydantic": "2.12.5",
    "PyYAML": "6.0.3",
    "xxhash": "3.6.0",
    "jinja2": "3.1.6",
    "rich": "14.2.0",
    "matplotlib": "3.10.0",
}
P100 = Card("Tesla P100-PCIE-16GB", (6, 0), 17 * GB, 16 * GB)
T4 = Card("Tesla T4", (7, 5), 15_800_000_000, 15_700_000_000)
A100 = Card("NVIDIA A100-SXM4-40GB", (8, 0), 42 * GB, 41 * GB)
FAST = (Product("float32", 2048, 8.0), Product("float16", 2048, 20.0))
CPU = Machine(
    versions=VERSIONS | {"torch": "2.13.0+cpu"},
    torch_cuda=None,
    built_for=(),
    cards=(),
    driver=None,
    products=(Product("float32", 512, 0.1),),
    cpu="Some Processor",
    cores=4,
    memory=HostMemory(31 * GB, 29 * GB),
    disk=Disk(Path("artifacts"), 50 * GB, True),
    kept_bytes=None,
)


def machine(*cards: Card, built_for: tuple[str, ...] = WHEEL_12_8, **changes: Any) -> Machine:
    """A machine with these cards and a torch for CUDA 12.8, or what `changes` say."""
    with_cards = {"cards": cards, "torch_cuda": "12.8", "built_for": built_for, "products": FAST, "versions": VERSIONS}
    return dataclasses.replace(CPU, **(with_cards if cards else {}) | changes)


def unseen(name: str, capability: tuple[int, int], cuda: tuple[int, int], torch_cuda: str | None) -> Machine:
    """A machine whose driver has a card that torch does not see."""
    version = "2.11.0+cpu" if torch_cuda is None else f"2.11.0+cu{torch_cuda.replace('.', '')}"
    return dataclasses.replace(
        CPU,
        versions=VERSIONS | {"torch": version},
        torch_cuda=torch_cuda,
        driver=Driver(cuda, ((name, capability),)),
    )
