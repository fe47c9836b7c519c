"""Memory and disk as the system tells of them: containers of both kinds, systems that say nothing, folders to be."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import machine
from pipeline.machine import Disk, cpu_name, disk_below, free_below, host_memory, usable_cores

MEMINFO = "MemTotal:       30000000 kB\nMemFree:         1000000 kB\nMemAvailable:   20000000 kB\n"


def system(root: Path, **files: str) -> Path:
    """A root folder with these files, `__` for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_a_container_it_is_the_machines(tmp_path: Path) -> None:
    found = host_memory(system(tmp_path, proc__meminfo=MEMINFO))
    assert (found.total_bytes, found.free_bytes) == (30_720_000_000, 20_480_000_000)


@pytest.mark.parametrize("unlimited", ["max\n", "9223372036854771712\n"])
def test_a_container_without_a_limit_is_none(unlimited: str, tmp_path: Path) -> None:
    files = {"sys__fs__cgroup__memoryDOTmax": unlimited, "sys__fs__cgroup__memory__memoryDOTlimit_in_bytes": unlimited}
    assert host_memory(system(tmp_path, proc__meminfo=MEMINFO, **files)).total_bytes == 30_720_000_000


@pytest.mark.parametrize(
    ("limit", "used", "statistics"),
    [
        ("memoryDOTmax", "memoryDOTcurrent", "memoryDOTstat"),
        ("memory__memoryDOTlimit_in_bytes", "memory__memoryDOTusage_in_bytes", "memory__memoryDOTstat"),
    ],
)
def test_a_container_of_either_kind_has_its_limit(limit: str, used: str, statistics: str, tmp_path: Path) -> None:
    below = "sys__fs__cgroup__"
    files = {below + limit: "16000000000\n", below + used: "5000000000\n"}
    found = host_memory(system(tmp_path, proc__meminfo=MEMINFO, **files))
    assert (found.total_bytes, found.free_bytes) == (16_000_000_000, 11_000_000_000)
    droppable = {below + statistics: "anon 1000000000\ninactive_file 4000000000\n"}
    assert host_memory(system(tmp_path, **droppable)).free_bytes == 15_000_000_000


def test_a_container_that_is_over_its_limit_has_nothing(tmp_path: Path) -> None:
    files = {"sys__fs__cgroup__memoryDOTmax": "1000\n", "sys__fs__cgroup__memoryDOTcurrent": "2000\n"}
    assert host_memory(system(tmp_path, proc__meminfo=MEMINFO, **files)).free_bytes == 0


def test_a_system_that_says_nothing_is_asked_for_its_pages(tmp_path: Path) -> None:
    found = host_memory(tmp_path)
    assert found.total_bytes == found.free_bytes == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_this_machine_has_something_of_everything() -> None:
    found = host_memory()
    assert 0 < found.free_bytes <= found.total_bytes
    assert usable_cores() >= 1
    assert cpu_name()


def test_a_folder_that_is_not_there_yet_is_on_the_disk_of_its_parent(tmp_path: Path) -> None:
    found = disk_below(tmp_path / "artifacts" / "run")
    assert found.free_bytes
    assert found.writable
    assert not list(tmp_path.iterdir())


def test_what_is_free_is_asked_of_the_disk_of_a_parent_too(tmp_path: Path) -> None:
    free_bytes = free_below(tmp_path / "artifacts" / "run")
    assert free_bytes is not None
    assert free_bytes == pytest.approx(disk_below(tmp_path).free_bytes, rel=0.1)


def test_a_disk_may_not_say_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: SimpleNamespace(total=0, used=0, free=0))
    assert free_below(tmp_path) is None

    def refuse(place: Path) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(machine.shutil, "disk_usage", refuse)
    assert free_below(tmp_path) is None
    assert disk_below(tmp_path) == Disk(tmp_path, None, True)


def test_below_a_folder_of_somebody_elses_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.11 raises there, and the superuser is not kept out: so the refusal is made here."""
    real, locked = Path.exists, tmp_path / "locked"
    locked.mkdir(mode=0o500)

    def exists(path: Path) -> bool:
        if locked in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "exists", exists)
    assert disk_below(locked / "run").free_bytes == disk_below(locked).free_bytes


def test_a_folder_that_cannot_be_written_is_told() -> None:
    assert not disk_below(Path("/proc/self/run")).writable
