"""What of a machine several processes get, each with a model of its own: a card, or some of the cores."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial

import torch

from pipeline.console import warn_once
from pipeline.errors import MachineError
from pipeline.models.device import beginning_on_card
from pipeline.models.settings import Device


def count_workers(wanted: int | None, device: Device, setting: str = "teacher.workers") -> int:
    """How many processes are to run a model side by side: as many as `wanted`, else one a card; on the CPU one.

    `setting` is the key that says so. MachineError where there are fewer cards: two models on one card are not faster,
    and may not fit. Unless it is asked for, cards from the first one of another capability on are left alone: they
    round differently, and may lack what was planned on the first.
    """
    cards = _count_cards(device)
    if wanted is not None and wanted > cards > 0:
        raise MachineError(
            f"{setting}: expected at most {cards}, the cards of this machine, found {wanted}: each process takes a "
            f"card. Set {setting} (or --workers) to {cards} or less."
        )
    return wanted or max(1, _count_alike(cards, setting))


def count_busy_cards(wanted: int | None, device: Device, setting: str = "teacher.workers") -> int:
    """How many times faster these workers are than one: on cards as many times as there are of them, on a CPU, whose
    cores they share, not at all."""
    return min(count_workers(wanted, device, setting), max(1, _count_cards(device)))


def use_card(number: int, device: Device) -> None:
    """Run on the card of this number from here on, where this process is to run on a card at all.

    MachineError where there is no room on it.
    """
    if device != "cpu" and torch.cuda.is_available():
        with beginning_on_card(f"card {number}"):
            torch.cuda.set_device(number)


def on_its_card(device: torch.device) -> Callable[[], None] | None:
    """What a new thread must call before it works with what lies on `device`; None where there is nothing to do.

    A thread begins on the first card, and would take memory of it for what it has there.
    """
    return partial(torch.cuda.set_device, device) if device.type == "cuda" else None


def free_card() -> None:
    """Give back what models that are gone held of the card, so that another one, or another process, can have it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def num_threads() -> int:
    """Threads that this process computes with."""
    return torch.get_num_threads()


def share_threads(count: int) -> None:
    """Compute with `count` threads from here on, so that as many processes as cores can do the same."""
    torch.set_num_threads(count)


def _count_alike(cards: int, setting: str) -> int:
    """How many cards from the first on have its capability; what is left alone is said."""
    capabilities = [torch.cuda.get_device_capability(number) for number in range(cards)]
    alike = next((number for number, other in enumerate(capabilities) if other != capabilities[0]), cards)
    if alike < cards:
        warn_once(
            f"{alike} of {cards} cards are used: card {alike} has capability {'.'.join(map(str, capabilities[alike]))} "
            f"and the first one {'.'.join(map(str, capabilities[0]))}. To use all of them: {setting}: {cards}"
        )
    return alike


def _count_cards(device: Device) -> int:
    return torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
