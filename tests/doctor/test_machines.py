"""What a machine's facts mean, over machines as people have them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.doctor.check import faults
from pipeline.doctor.examine import examine
from pipeline.doctor.facts import Card, Driver, Machine, Product
from pipeline.machine import Disk, HostMemory
from tests.doctor.machines import A100, CPU, FAST, GB, P100, T4, VERSIONS, WHEEL_12_6, machine, unseen

CU126 = "--index-url https://download.pytorch.org/whl/cu126"
NO_MEMORY = Product("float32", 2048, 0.0, "CUDA out of memory. Tried to allocate 16.00 MiB")
UNSOUND = Product("float16", 2048, 0.0, "ones times ones did not give 2,048 everywhere: the card is not sound")
NEW = Card("NVIDIA RTX 5090", (12, 0), 34 * GB, 33 * GB)


def with_versions(found: Machine, **versions: str | None) -> Machine:
    return dataclasses.replace(
        found, versions={**found.versions, **{k.replace("_", "-"): v for k, v in versions.items()}}
    )


FIT = {
    "a T4 with the usual wheel": (machine(T4), "Tesla T4, capability 7.5"),
    "a P100 with its wheel": (machine(P100, built_for=WHEEL_12_6), "Tesla P100-PCIE-16GB, capability 6.0"),
    "an A100": (machine(A100), "auto is bfloat16"),
    "a card newer than the build, by PTX": (
        machine(NEW, built_for=(*WHEEL_12_6, "compute_90")),
        "capability 12.0",
    ),
    "no card": (CPU, "the stages run on the CPU"),
    "a driver without a card": (
        dataclasses.replace(CPU, driver=Driver((12, 4), ())),
        "none",
    ),
    "an old pyarrow, as images have it": (with_versions(machine(T4), pyarrow="18.1.0"), "23.0.1 or newer"),
    "little memory": (machine(T4, memory=HostMemory(4 * GB, 2 * GB)), "4 GB free: a model is loaded here"),
    "little disk": (machine(T4, disk=Disk(Path("artifacts"), 2 * GB, True)), "5 GB for any but a small run"),
    "a notebook host": (
        machine(T4, kept_bytes=20 * GB, disk=Disk(Path("artifacts"), 8000 * GB, True)),
        "20 GB below artifacts, as much as is kept here; the system shows 8,000 GB",
    ),
}
UNFIT = {
    "a P100 with the usual wheel": (machine(P100, products=()), "card", f'pip install "torch==2.11.0+cu126" {CU126}'),
    "a P100 with a torch past its last": (
        with_versions(machine(P100, products=()), torch="2.16.0+cu130"),
        "card",
        f'pip install "torch>=2.10,<=2.14" {CU126}',
    ),
    "a P100 and a torch without CUDA": (
        unseen(P100.name, (6, 0), (12, 4), None),
        "card",
        f'pip install "torch==2.11.0+cu126" {CU126}',
    ),
    "a T4 with an old driver": (
        unseen(T4.name, (7, 5), (12, 4), "13.0"),
        "card",
        f'pip install "torch==2.11.0+cu126" {CU126}',
    ),
    "a T4 with a very old driver": (unseen(T4.name, (7, 5), (11, 8), "12.8"), "card", "update the NVIDIA driver"),
    "a T4 that torch does not see for another reason": (
        unseen(T4.name, (7, 5), (13, 0), "12.8"),
        "card",
        "nvidia-smi; echo $CUDA_VISIBLE_DEVICES",
    ),
    "a new card and a torch without CUDA": (
        unseen("NVIDIA RTX 5090", (12, 0), (12, 8), None),
        "card",
        "see https://pytorch.org/get-started/locally/",
    ),
    "a card older than any wheel": (
        machine(Card("Tesla K80", (3, 7), 12 * GB, 12 * GB), products=()),
        "card",
        "use another card",
    ),
    "a card newer than the build": (
        machine(NEW, built_for=WHEEL_12_6, products=()),
        "card",
        "Install a build for it: see https://pytorch.org/get-started/locally/",
    ),
    "a card that is full": (
        machine(T4, products=(NO_MEMORY,)),
        "product",
        "nvidia-smi lists what uses the card: end that",
    ),
    "a card that is not sound": (
        machine(T4, products=(FAST[0], UNSOUND)),
        "product",
        "another build of torch: https://pytorch.org/get-started/locally/",
    ),
    "a torch too old for anybody": (
        with_versions(machine(T4), torch="2.9.1+cu128"),
        "library",
        'pip install "torch>=2.10"',
    ),
    "a torch too old, on a P100": (
        with_versions(machine(P100, built_for=WHEEL_12_6), torch="2.6.0+cu124"),
        "library",
        f'pip install "torch>=2.10,<=2.14" {CU126}',
    ),
    "numcodecs too old": (with_versions(machine(T4), numcodecs="0.16.5"), "library", 'pip install "numcodecs>=0.16.6"'),
    "transformers too old": (with_versions(CPU, transformers="4.57.1"), "library", 'pip install "transformers>=5.5"'),
    "no zarr, as images have it": (with_versions(machine(T4), zarr=None), "library", 'pip install "zarr>=3.1.6"'),
    "no room": (
        machine(T4, disk=Disk(Path("artifacts"), 50_000_000, True)),
        "disk",
        "free some, or --run-dir FOLDER",
    ),
    "a folder of somebody else's": (machine(T4, disk=Disk(Path("artifacts"), GB, False)), "disk", "--run-dir FOLDER"),
}


@pytest.mark.parametrize("name", FIT)
def test_a_machine_that_is_fit(name: str) -> None:
    found, said = FIT[name]
    checks = examine(found)
    assert not faults(checks), [check.line for check in faults(checks)]
    assert any(said in check.line for check in checks), [check.line for check in checks]


@pytest.mark.parametrize("name", UNFIT)
def test_a_machine_that_is_not_is_told_what_mends_it(name: str) -> None:
    found, where, fix = UNFIT[name]
    [fault] = faults(examine(found))
    assert (fault.name, fault.fix) == (where, fix)
    assert fault.found
    assert fault.line.endswith(f"-> {fix}")


@pytest.mark.parametrize("name", [name for name, (_, where, _) in UNFIT.items() if where == "card"])
def test_the_card_comes_first(name: str) -> None:
    assert examine(UNFIT[name][0])[0].name == "card"


def test_the_p100_is_told_whose_kernels_and_where_they_are() -> None:
    line = examine(machine(P100, products=()))[0].line
    for words in ("Tesla P100-PCIE-16GB, capability 6.0", "torch 2.11.0+cu128 was built for sm_75", "CUDA 12.6 wheels"):
        assert words in line


def test_several_faults_are_told_at_once() -> None:
    found = with_versions(machine(P100, products=()), numcodecs="0.15.0", zarr=None, torch="2.9.0+cu128")
    assert [check.name for check in faults(examine(found))] == ["card", "library", "library", "library"]


def test_a_second_card_is_named_and_is_no_fault() -> None:
    checks = examine(machine(T4, T4))
    assert not faults(checks)
    [line] = [check for check in checks if check.name == "cards"]
    assert (line.state, "leaves Tesla T4 idle" in line.found) == ("note", True)


@pytest.mark.parametrize(
    ("card", "dtype", "scaler"), [(P100, "float16", True), (T4, "float16", True), (A100, "bfloat16", False)]
)
def test_the_precision_of_auto_is_told(card: Card, dtype: str, scaler: bool) -> None:
    [line] = [check.found for check in examine(machine(card, built_for=(*WHEEL_12_6,))) if check.name == "dtype"]
    assert f"auto is {dtype}:" in line
    assert ("loss scaler" in line, "no bfloat16" in line) == (scaler, scaler)


def test_the_versions_here_are_those_of_a_fit_machine() -> None:
    """The base of all of these machines has nothing to say of its libraries."""
    assert {check.state for check in examine(machine(T4))} == {"ok"}
    assert set(VERSIONS) == set(CPU.versions)
