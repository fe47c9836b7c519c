"""Gathering facts: on this machine for real, and from a driver and a card that are pretended."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.doctor import facts
from pipeline.doctor.facts import Card, Driver, ask_driver, gather, multiply
from tests.doctor.machines import WHEEL_12_8

CPU = torch.device("cpu")


class PretendedDriver:
    """The five functions of libcuda that are called."""

    def __init__(self, version: int, cards: list[tuple[bytes, tuple[int, int]]], status: int = 0) -> None:
        self._version, self._cards, self._status = version, cards, status

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = self._version
        return 0

    def cuInit(self, flags: int) -> int:  # noqa: N802
        assert flags == 0
        return self._status

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self._cards)
        return 0

    def cuDeviceGet(self, card: Any, index: int) -> int:  # noqa: N802
        card._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, length: int, card: ctypes.c_int) -> int:  # noqa: N802
        assert length == 256
        name.value = self._cards[card.value][0]
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, card: ctypes.c_int) -> int:  # noqa: N802
        value._obj.value = self._cards[card.value][1][{75: 0, 76: 1}[attribute]]
        return 0


def test_the_driver_is_asked_without_torch() -> None:
    cards = [(b"Tesla P100-PCIE-16GB", (6, 0)), (b"Tesla T4", (7, 5))]
    found = ask_driver(PretendedDriver(12_040, cards))
    assert found == Driver((12, 4), (("Tesla P100-PCIE-16GB", (6, 0)), ("Tesla T4", (7, 5))))
    assert ask_driver(PretendedDriver(11_080, cards, status=100)) == Driver((11, 8), ())
    assert ask_driver(None) is None


def test_the_facts_of_this_machine_are_gathered(tmp_path: Path) -> None:
    found = gather(tmp_path / "run")
    assert found.torch == torch.__version__
    assert found.versions["numpy"]
    assert [product.error for product in found.products] == [""] * len(found.products) != []
    assert all(product.teraflops > 0 for product in found.products)
    assert found.memory.total_bytes > found.memory.free_bytes > 0
    assert not list(tmp_path.iterdir())


def test_the_quick_form_multiplies_nothing_and_leaves_the_driver_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "multiply", lambda *_: pytest.fail("multiplied"))
    monkeypatch.setattr(facts, "_libcuda", lambda: pytest.fail("asked the driver"))
    found = gather(tmp_path, thorough=False)
    assert (found.products, found.driver) == ((), None)


def test_a_product_is_checked() -> None:
    assert multiply(CPU, torch.float32, 64).error == ""
    overflowing = multiply(CPU, torch.int8, 256)  # 256 is 0 in it
    assert "did not give 256 everywhere: the card is not sound" in overflowing.error
    assert "meta" in multiply(torch.device("meta"), torch.float32, 64).error.lower()


def test_a_card_is_told_as_torch_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cards, the second in use, and a build without kernels for it: no product is tried."""

    class Properties:
        def __init__(self, name: str, total_memory: int) -> None:
            self.name, self.major, self.minor, self.total_memory = name, 6, 0, total_memory

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(WHEEL_12_8))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties(f"card {index}", 1000 + index))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (7, 1000))
    monkeypatch.setattr(facts, "multiply", lambda *_: pytest.fail("multiplied"))
    found = gather(tmp_path)
    assert found.cards == (Card("card 1", (6, 0), 1001, 7), Card("card 0", (6, 0), 1000, 1000))
    assert (found.built_for, found.driver) == (WHEEL_12_8, None)

    def full(index: int) -> tuple[int, int]:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", full)
    assert gather(tmp_path).cards[0].free_bytes == 0


def test_a_notebook_host_keeps_less_than_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "shard").write_bytes(bytes(1000))
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    assert gather(tmp_path).kept_bytes is None
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert gather(tmp_path).kept_bytes == 20_000_000_000 - 1000
    clone = tmp_path / "kaggle" / "working" / "clone"
    clone.mkdir(parents=True)
    (clone.parent / "another-run").write_bytes(bytes(500))
    monkeypatch.chdir(clone)
    assert gather(tmp_path).kept_bytes == 20_000_000_000 - 500
