"""Are the libraries here, and new enough: told from their metadata, so that none of them need be imported."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Iterator, Mapping

from pipeline.doctor.check import Check

LEAST_VERSIONS = {
    "torch": "2.10",
    "transformers": "5.5",
    "numcodecs": "0.16.6",
    "zarr": "3.1.6",
    "numpy": "2.1",
    "datasets": "4.0",
    "pyarrow": "18.1",
    "google-crc32c": "1.5",
    "click": "8.1",
    "safetensors": "0.5",
    "pydantic": "2.10",
    "PyYAML": "6.0",
    "xxhash": "3.5",
    "jinja2": "3.1",
    "rich": "13",
    "matplotlib": "3.9",
}
"""as in pyproject.toml; what an installation without dependencies leaves unchecked

Without click, pydantic or PyYAML no command begins, this one included: Python names the one that is missing.
"""
_WHY = {
    "torch": "it carries the fix of CVE-2026-24747",
    "transformers": "it carries the fixes of CVE-2026-4372 and CVE-2026-5241",
    "numcodecs": "in older ones an array of objects can run code",
}
_RECOMMENDED = {
    "pyarrow": ("23.0.1", "it carries the fix of CVE-2026-25087; where a notebook image must stay, let it be")
}


def installed_versions() -> dict[str, str | None]:
    """Library -> its version, None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in LEAST_VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def check_libraries(versions: Mapping[str, str | None], torch_command: str | None = None) -> list[Check]:
    """One line for each library that is absent or too old, or one for all of them.

    `torch_command` is what installs a torch for this machine's card, where that is not just any.
    """
    found = [*_too_old(versions, torch_command)]
    if not found:
        shown = ", ".join(f"{name} {versions[name]}" for name in (*_WHY, "zarr", "numpy"))
        found = [Check("libraries", "ok", f"python {platform.python_version()}, {shown} and {len(versions) - 5} more")]
    for name, (version, why) in _RECOMMENDED.items():
        here = versions[name]
        if here is not None and _numbers(LEAST_VERSIONS[name]) <= _numbers(here) < _numbers(version):
            fix = f'pip install "{name}>={version}"'
            found.append(Check("library", "note", f"{name} {here}", f"{version} or newer: {why}", fix))
    return found


def _too_old(versions: Mapping[str, str | None], torch_command: str | None) -> Iterator[Check]:
    for name, least in LEAST_VERSIONS.items():
        here = versions[name]
        if here is not None and _numbers(here) >= _numbers(least):
            continue
        fix = torch_command if name == "torch" and torch_command else f'pip install "{name}>={least}"'
        why = f": {_WHY[name]}" if name in _WHY and here is not None else ""
        yield Check("library", "fault", f"{name} {here or 'is not installed'}", f"{least} or newer{why}", fix)


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version, for comparing: 2.10.0+cu126 is (2, 10); one that says nothing is the oldest."""
    found = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in found[0].split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
