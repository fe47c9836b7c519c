"""Device and precision: decided by capability, refused with the fix."""

from __future__ import annotations

import importlib.metadata
import shutil

import pytest
import torch

from pipeline import console
from pipeline.errors import MachineError
from pipeline.models.device import (
    WHERE_BUILDS_ARE,
    build_supports,
    check_cuda,
    choose_device,
    choose_dtype,
    cuda_12_6_command,
    device_class,
    dtype_for,
    environment,
)

CPU = torch.device("cpu")
_WHEEL_12_6 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
_WHEEL_12_8 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        ((6, 0), _WHEEL_12_6, True),
        ((6, 0), _WHEEL_12_8, False),
        ((6, 1), _WHEEL_12_6, True),
        ((7, 5), _WHEEL_12_8, True),
        ((8, 9), _WHEEL_12_8, True),
        ((8, 0), ["sm_86"], False),
        ((12, 0), _WHEEL_12_8, True),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((8, 0), ["sm_90", "compute_90"], False),
        ((9, 0), ["sm_90a"], True),
        ((7, 5), [], False),
    ],
)
def test_a_build_runs_within_its_major_version_or_by_ptx(capability, built_for, runs):
    assert build_supports(capability, built_for) is runs


def _pretend_card(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Some Card")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: _WHEEL_12_8)


def test_a_card_the_build_has_no_kernels_for_gets_the_exact_fix(monkeypatch):
    _pretend_card(monkeypatch, (6, 0))
    with pytest.raises(MachineError, match=r"capability 6\.0.*up to PyTorch 2\.14: pip install \"torch.*whl/cu126"):
        check_cuda(torch.device("cuda"))
    _pretend_card(monkeypatch, (13, 0))
    with pytest.raises(MachineError, match=r"capability 13\.0.*get-started"):
        check_cuda(torch.device("cuda"))


@pytest.mark.parametrize(
    ("here", "wanted"),
    [
        ("2.11.0+cu128", "torch==2.11.0+cu126"),
        ("2.13.0+cpu", "torch==2.13.0+cu126"),
        ("2.14.0", "torch==2.14.0+cu126"),
        ("2.10.0a0+git1234", "torch==2.10.0+cu126"),
        ("2.15.1+cu130", "torch>=2.10,<=2.14"),
        ("2.6.0+cu124", "torch>=2.10,<=2.14"),
        ("unknown", "torch>=2.10,<=2.14"),
    ],
)
def test_the_command_for_an_older_card_really_changes_the_build(here, wanted):
    """pip takes a version in the right range for satisfied, whatever it was built for: then its build is named."""
    assert cuda_12_6_command(here) == f'pip install "{wanted}" --index-url https://download.pytorch.org/whl/cu126'


def test_a_card_older_than_any_wheel_is_not_sent_to_one(monkeypatch):
    _pretend_card(monkeypatch, (3, 7))
    with pytest.raises(MachineError, match=r"capability 3\.7.*older than capability 5\.0: use another card") as error:
        check_cuda(torch.device("cuda"))
    assert "whl/cu126" not in str(error.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_full_card_is_not_taken_for_a_wrong_build(error, monkeypatch):
    def full(*arguments, **keywords):
        raise error

    _pretend_card(monkeypatch, (7, 5))
    monkeypatch.setattr(torch, "ones", full)
    with pytest.raises(MachineError, match=r"another process holds the card\. nvidia-smi") as refusal:
        check_cuda(torch.device("cuda"))
    assert "built for" not in str(refusal.value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", full)
    with pytest.raises(MachineError, match="another process holds the card"):
        choose_device("auto")


def test_a_card_must_do_one_real_product(monkeypatch):
    """The architectures match; the work decides. A meta device allocates and multiplies, and has no numbers."""
    _pretend_card(monkeypatch, (7, 5))
    check_cuda(CPU)
    with pytest.raises(MachineError, match="A first product failed"):
        check_cuda(torch.device("meta"))


@pytest.mark.parametrize(
    ("setting", "capability", "expected"),
    [
        ("auto", None, torch.float32),
        ("auto", (6, 0), torch.float16),
        ("auto", (7, 5), torch.float16),
        ("auto", (8, 0), torch.bfloat16),
        ("auto", (12, 0), torch.bfloat16),
        ("float32", (7, 5), torch.float32),
        ("float16", None, torch.float16),
        ("bfloat16", None, torch.bfloat16),
        ("bfloat16", (8, 6), torch.bfloat16),
    ],
)
def test_precision_follows_capability(setting, capability, expected):
    assert dtype_for(setting, capability) == expected


def test_bfloat16_below_8_0_is_refused():
    with pytest.raises(MachineError, match=r"this one has 7\.5.*Set it to float16"):
        dtype_for("bfloat16", (7, 5))


def test_a_cpu_is_always_there():
    assert choose_device("cpu") == CPU
    assert choose_dtype("auto", CPU) == torch.float32
    assert device_class(CPU) == "cpu"


def test_without_a_card_auto_is_the_cpu_and_cuda_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(MachineError, match="sees no card"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("built_for", "driver", "said"),
    [(None, None, ""), ("12.8", None, "built for CUDA 12.8"), (None, "/usr/bin/nvidia-smi", "built without CUDA")],
)
def test_auto_says_why_it_is_the_cpu_where_a_card_seems_near(built_for, driver, said, monkeypatch, capsys):
    monkeypatch.setattr(console, "_said", set())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(shutil, "which", lambda name: driver)
    assert [choose_device("auto"), choose_device("auto")] == [CPU, CPU]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(said)
    assert all(said in line and "auto runs on the CPU" in line and WHERE_BUILDS_ARE in line for line in lines)


def test_the_environment_names_versions_and_nothing_that_varies_between_runs(monkeypatch):
    found = environment(CPU)
    assert found == environment(CPU)
    assert found["device_class"] == "cpu"
    assert found["torch"] == importlib.metadata.version("torch")
    assert {"python", "transformers", "numpy", "zarr", "device_name"} <= found.keys()
    assert all(isinstance(value, str) for value in found.values())


def test_a_cards_class_is_its_architecture(monkeypatch):
    _pretend_card(monkeypatch, (7, 5))
    assert device_class(torch.device("cuda")) == "cuda sm_75"
    assert environment(torch.device("cuda"))["device_name"] == "Some Card"
