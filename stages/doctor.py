"""doctor: is this machine fit for the work, and for what a config asks; each fault with what mends it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pipeline.console import say
from pipeline.doctor.check import Check, faults
from pipeline.doctor.libraries import check_libraries, installed_versions
from pipeline.runs import RunDirectory
from pipeline.session import output_limit
from stages.config import RunConfig

_NEEDED_TO_LOOK = (
    "torch", "transformers", "numpy", "zarr", "numcodecs", "google-crc32c", "datasets", "pyarrow", "safetensors",
    "xxhash", "jinja2", "rich",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Examination:
    """What was looked at."""

    checks: tuple[Check, ...]

    @property
    def fit(self) -> bool:
        """Whether nothing stands in the way."""
        return not faults(self.checks)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"fit": self.fit, "checks": [check.to_json() for check in self.checks]}


def run(config: RunConfig | None, run: RunDirectory, gigabytes: float | None, online: bool) -> Examination:
    """Look at everything, say a line for each thing, and write nothing."""
    versions = installed_versions()
    if any(versions[name] is None for name in _NEEDED_TO_LOOK):
        checks = check_libraries(versions)
        say_checks(checks)
        say("Nothing else can be looked at without these.")
        return Examination(tuple(checks))
    checks = _examine(config, run, gigabytes, online)
    say_checks(checks)
    found = faults(checks)
    say(f"{len(found)} of {len(checks)} checks failed." if found else f"Fit: {len(checks)} checks, none failed.")
    return Examination(tuple(checks))


def say_checks(checks: list[Check]) -> None:
    """A line for each."""
    for check in checks:
        say(check.line)


def _rooms_bytes(
    config: RunConfig | None, run: RunDirectory, gigabytes: float | None, kept_bytes: int | None
) -> list[int]:
    """What may still be written, by whoever says so: --gb, or else the host and the config's own limit."""
    if gigabytes is not None:
        return [round(gigabytes * 1e9)]
    rooms = [] if kept_bytes is None else [kept_bytes]
    if config is not None and (limit := output_limit(config.session, run.root)).max_bytes is not None:
        rooms.append(max(0, limit.max_bytes - limit.used_bytes()))
    return rooms


def _examine(config: RunConfig | None, run: RunDirectory, gigabytes: float | None, online: bool) -> list[Check]:
    # Imported here: without torch there is still something to say.
    from pipeline.doctor.asked import look_at_config
    from pipeline.doctor.examine import examine
    from pipeline.doctor.facts import gather
    from pipeline.doctor.hub import Hub

    machine, hub = gather(run.root), Hub()
    if room := _rooms_bytes(config, run, gigabytes, machine.kept_bytes):
        machine = dataclasses.replace(machine, kept_bytes=min(room))
    if gigabytes is not None:  # of another disk than this one, perhaps
        machine = dataclasses.replace(machine, disk=dataclasses.replace(machine.disk, free_bytes=None))
    if online:
        hub.answers()
    asked = None
    if config is not None:
        made = None if config.demo is None else (config.demo.teacher, config.demo.vocab_size)
        sections = (config.data, config.teacher, config.cache, config.student, config.train)
        asked = look_at_config(*sections, run, hub, made, config.eval.teacher, config.eval.baselines)
    return [*examine(machine, asked), hub.check()]
