"""What the facts of a machine mean for the work here: a pure judgement, with what helps.

The card comes first: on a P100 with a torch that has no kernels for it, nothing else matters.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.console import format_bytes
from pipeline.doctor.check import Check
from pipeline.doctor.facts import Card, Driver, Machine
from pipeline.models.device import (
    BFLOAT16_CAPABILITY,
    IN_EVERY_WHEEL_FROM,
    WHERE_BUILDS_ARE,
    Capability,
    build_supports,
    cuda_12_6_command,
    dotted,
    dtype_for,
    where_kernels_are,
)
from pipeline.models.settings import Device

_LAST_OF_CUDA_12_6: Capability = (9, 0)
_DRIVER_OF_CUDA_12 = 525
_LITTLE_MEMORY_BYTES, _LITTLE_DISK_BYTES = 4e9, 5e9
_NO_DISK_BYTES = 100e6
_LOOK = "nvidia-smi"


def card_for(machine: Machine, device: Device) -> Card | None:
    """The card that work on `device` runs on; None for the CPU."""
    return None if device == "cpu" or not machine.cards else machine.cards[0]


def capability_for(machine: Machine, device: Device) -> Capability | None:
    """Of the card that work on `device` runs on; None for the CPU."""
    card = card_for(machine, device)
    return None if card is None else card.capability


def check_card(machine: Machine, device: Device) -> Iterator[Check]:
    """Is there a card, and does this torch have kernels for it."""
    card = card_for(machine, device)
    if device == "cpu":
        yield Check("card", "ok", "none is used: the device is cpu")
    elif card is None:
        yield _no_card(machine, device)
    elif build_supports(card.capability, machine.built_for):
        memory = f"{format_bytes(card.total_bytes)}, {format_bytes(card.free_bytes)} free"
        yield Check("card", "ok", f"{named(card.name, card.capability)}, {memory}; torch {machine.torch} runs on it")
    else:
        why, fix = where_kernels_are(card.capability, machine.torch)
        built = f"torch {machine.torch} was built for {', '.join(machine.built_for) or 'no card'}"
        found = f"{named(card.name, card.capability)}, and {built}"
        yield Check("card", "fault", found, _sentence("a torch with kernels for it", why), fix)
    if card is not None and len(machine.cards) > 1:
        # What validates, evaluates or tries something runs on one; the place to say so.
        others = ", ".join(other.name for other in machine.cards[1:])
        yield Check(
            "cards",
            "note",
            f"{len(machine.cards)}; capture and training share them, any other stage leaves {others} idle",
        )


def check_products(machine: Machine, device: Device) -> Iterator[Check]:
    """Was a real product right; nothing where none was tried."""
    if not machine.products or (device == "cpu" and machine.cards):
        return
    failed = next((product for product in machine.products if product.error), None)
    if failed is not None:
        full = "out of memory" in failed.error or "ALLOC_FAILED" in failed.error
        fix = f"{_LOOK} lists what uses the card: end that" if full else f"another build of torch: {WHERE_BUILDS_ARE}"
        yield Check("product", "fault", f"in {failed.dtype} failed: {failed.error}", "a real product to be right", fix)
        return
    paces = ", ".join(f"{product.dtype} {product.teraflops:.3g}" for product in machine.products)
    yield Check("product", "ok", f"{machine.products[0].rows:,} rows, right; TFLOP/s: {paces}")


def check_memory(machine: Machine) -> Check:
    """The machine's own memory."""
    memory = machine.memory
    free = f"{format_bytes(memory.total_bytes)}, {format_bytes(memory.free_bytes)} free"
    found = f"{machine.cpu}, {machine.cores} cores, {free}"
    if memory.free_bytes < _LITTLE_MEMORY_BYTES:
        expected = f"{format_bytes(_LITTLE_MEMORY_BYTES)} free: a model is loaded here before it goes to a card"
        return Check("memory", "note", found, expected, "end other programs, or take a machine with more")
    return Check("memory", "ok", found)


def check_disk(machine: Machine) -> Check:
    """The disk of the run directory."""
    disk = machine.disk
    where, free = f"below {disk.folder}", room_bytes(machine)
    if not disk.writable:
        return Check("disk", "fault", f"{where} nothing can be written", "a folder of your own", "--run-dir FOLDER")
    if free is None:
        return Check("disk", "ok", f"{where} can be written; how much is free the system does not say")
    found = f"{format_bytes(free)} {where}"
    if machine.kept_bytes == free:
        shown = "" if disk.free_bytes is None else f"; the system shows {format_bytes(disk.free_bytes)}"
        found += f", as much as is kept here{shown}"
    if free < _NO_DISK_BYTES:
        return Check(
            "disk", "fault", found, f"{format_bytes(_NO_DISK_BYTES)} at least", "free some, or --run-dir FOLDER"
        )
    if free < _LITTLE_DISK_BYTES:
        return Check("disk", "note", found, f"{format_bytes(_LITTLE_DISK_BYTES)} for any but a small run")
    return Check("disk", "ok", found)


def room_bytes(machine: Machine) -> int | None:
    """What may be written; None where nobody says."""
    return min((room for room in (machine.kept_bytes, machine.disk.free_bytes) if room is not None), default=None)


def check_precision(machine: Machine, device: Device) -> Check:
    """What `auto` means here."""
    card = card_for(machine, device)
    dtype = str(dtype_for("auto", None if card is None else card.capability)).removeprefix("torch.")
    if card is None:
        return Check("dtype", "ok", f"auto is {dtype}, for teacher and student")
    training = "a loss scaler, weights in float32" if dtype == "float16" else "weights in float32"
    without = "" if card.capability >= BFLOAT16_CAPABILITY else "; this card has no bfloat16 of its own"
    return Check("dtype", "ok", f"auto is {dtype}: teacher in it, student under autocast with {training}{without}")


def torch_command(machine: Machine) -> str | None:
    """What installs a torch where the card does not run with just any."""
    known = [card.capability for card in machine.cards[:1]]
    known += [capability for _, capability in machine.driver.cards[:1]] if machine.driver else []
    if known and known[0] < IN_EVERY_WHEEL_FROM:
        return where_kernels_are(known[0], machine.torch)[1]
    return None


def named(name: str, capability: Capability) -> str:
    """A card, in words."""
    return f"{name}, capability {dotted(capability)}"


def _no_card(machine: Machine, device: Device) -> Check:
    driver = machine.driver
    built = (
        f"torch {machine.torch} is built {f'for CUDA {machine.torch_cuda}' if machine.torch_cuda else 'without CUDA'}"
    )
    if driver is not None and driver.cards:
        name, capability = driver.cards[0]
        found = f"{named(name, capability)}, a driver for CUDA {dotted(driver.cuda)}, and {built}: it sees no card"
        return Check("card", "fault", found, *_reach(machine, driver, capability))
    if device == "cuda":
        fix = f"{_LOOK} shows whether the driver sees one; without a card set teacher.device and student.device to cpu"
        return Check("card", "fault", f"none; {built}", "a CUDA card", fix)
    return Check("card", "note", f"none: the stages run on the CPU, for which only small models are practical; {built}")


def _reach(machine: Machine, driver: Driver, capability: Capability) -> tuple[str, str]:
    """What a torch that reaches this card would be, and what installs it."""
    if driver.cuda < (12, 0):
        return f"a driver for CUDA 12 or newer ({_DRIVER_OF_CUDA_12} or newer)", "update the NVIDIA driver"
    if machine.torch_cuda and int(machine.torch_cuda.partition(".")[0]) <= driver.cuda[0]:
        return "torch to see it", f"{_LOOK}; echo $CUDA_VISIBLE_DEVICES"
    if capability < IN_EVERY_WHEEL_FROM:
        why, fix = where_kernels_are(capability, machine.torch)
        return _sentence("a torch with kernels for it", why), fix
    if driver.cuda < (13, 0) and capability <= _LAST_OF_CUDA_12_6:
        return "a torch for CUDA 12", cuda_12_6_command(machine.torch)
    return "a torch for this card and driver", f"see {WHERE_BUILDS_ARE}"


def _sentence(what: str, why: str) -> str:
    return f"{what}. {why}" if why else what
