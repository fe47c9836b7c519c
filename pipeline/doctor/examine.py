"""All checks together, for people who ask; and the few that each stage makes before its first heavy step."""

from __future__ import annotations

from pathlib import Path

from pipeline.cache.plan import Plan
from pipeline.cache.settings import CacheSettings
from pipeline.console import warn_once
from pipeline.distill.settings import TrainSettings
from pipeline.doctor.asked import Asked, look_at_student, look_at_teacher
from pipeline.doctor.check import Check, faults
from pipeline.doctor.config_checks import check_asked, check_dtype, check_sizes
from pipeline.doctor.facts import Machine, gather
from pipeline.doctor.libraries import check_libraries
from pipeline.doctor.machine_checks import (
    check_card,
    check_disk,
    check_memory,
    check_precision,
    check_products,
    torch_command,
)
from pipeline.errors import MachineError
from pipeline.models.cache_identity import planned_teacher
from pipeline.models.settings import Device, StudentSettings, TeacherSettings


def examine(machine: Machine, asked: Asked | None = None) -> list[Check]:
    """Every check of a machine, and of what a config asks of it; the card first."""
    device = device_of(asked)
    return [
        *check_card(machine, device),
        *check_products(machine, device),
        *([check_precision(machine, device)] if asked is None else []),
        *check_libraries(machine.versions, torch_command(machine)),
        check_memory(machine),
        check_disk(machine),
        *([] if asked is None else check_asked(machine, asked)),
    ]


def device_of(asked: Asked | None) -> Device:
    """Where the work of a config runs: on the card as soon as one of its models does."""
    models = [] if asked is None else [model for model in (asked.teacher, asked.student) if model is not None]
    devices = {model.device for model in models}
    return "cuda" if "cuda" in devices else "auto" if "auto" in devices or not models else "cpu"


# ------------------------------------------------------------------ at the start of a stage


def refuse_unfit(folder: Path, device: Device) -> None:
    """MachineError where a stage with models on `device` cannot work here."""
    _refuse(gather(folder, thorough=False), device, Asked())


def refuse_unfit_for_teacher(
    folder: Path, teacher: TeacherSettings, cache: CacheSettings, plan: Plan | None = None
) -> None:
    """MachineError where this teacher cannot score here, in its own precision or in that of an earlier plan.

    Told by its config: no weights are read, and the hub is not asked.
    """
    planned = None
    if plan is not None:
        planned, teacher = plan.capture["dtype"], planned_teacher(plan, teacher)
    asked = Asked(teacher=look_at_teacher(teacher, None, planned), cache_settings=cache)
    _refuse(gather(folder, thorough=False), teacher.device, asked)


def refuse_unfit_for_student(folder: Path, student: StudentSettings, train: TrainSettings, vocab_size: int) -> None:
    """MachineError where this student cannot be trained here; told by its config, as for a teacher."""
    asked = Asked(student=look_at_student(student, train, None, vocab_size), train_settings=train)
    _refuse(gather(folder, thorough=False), student.device, asked)


def _refuse(machine: Machine, device: Device, asked: Asked) -> None:
    """Faults are refused; of notes only those on the memory of this very work are told.

    The disk is not among them: a stage asks it for what its next shard or checkpoint takes, and pauses where that is
    not there, and its first words, config.yaml and status.json, show whether it can be written at all.
    """
    models = [model for model in (asked.teacher, asked.student) if model is not None]
    checks = [
        *check_card(machine, device),
        *check_libraries(machine.versions, torch_command(machine)),
        *(check_dtype(machine, model) for model in models),
    ]
    sizes = [*check_sizes(machine, asked)]
    if found := faults([*checks, *sizes]):
        lines = "\n".join(check.line for check in found)
        raise MachineError(f"this machine is not fit for it (`sad-pipeline doctor` looks at all of it):\n{lines}")
    for check in sizes:
        if check.state == "note":
            warn_once(f"{check.found}; expected: {check.expected} -> {check.fix}")
