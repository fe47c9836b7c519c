"""Who may touch what while another process lives: temporary files, sweeps and locks."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipeline import files
from pipeline.errors import StorageError


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def other_process() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start Python code in another process and wait until it says it is ready; it is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_sweep_takes_only_what_this_door_left(tmp_path: Path) -> None:
    for name in (".file.0123456789ab.tmp", "notes.tmp", ".notes.tmp", ".file.xyz.tmp", "file"):
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / ".model.0123456789ab.tmp" / "inner").mkdir(parents=True)
    removed = files.sweep_temporary(tmp_path)
    assert {path.name for path in removed} == {".file.0123456789ab.tmp", ".model.0123456789ab.tmp"}
    assert names(tmp_path) == {"notes.tmp", ".notes.tmp", ".file.xyz.tmp", "file"}
    assert files.sweep_temporary(tmp_path / "absent") == []


@pytest.mark.parametrize(("module", "name"), [(os, "open"), (fcntl, "flock")], ids=["opened", "locked"])
def test_a_sweep_in_the_instant_before_a_folder_is(
    module: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it took is made again."""
    real, swept = getattr(module, name), list[list[Path]]()

    def late(*arguments: Any) -> Any:
        monkeypatch.setattr(module, name, real)
        swept.append(files.sweep_temporary(tmp_path))
        return real(*arguments)

    monkeypatch.setattr(module, name, late)
    files.publish_folder(tmp_path / "folder", lambda staging: (staging / "file").touch())
    assert [len(paths) for paths in swept] == [1]
    assert names(tmp_path) == {"folder"}
    assert names(tmp_path / "folder") == {"file"}


@pytest.mark.parametrize("verb", ["write_file", "publish_folder"])
def test_a_temporary_survives_a_sweep_while_its_writer_lives(
    tmp_path: Path, verb: str, other_process: Callable[[str], subprocess.Popen[str]]
) -> None:
    writer = other_process(f"""
import sys
import threading
from pathlib import Path
from pipeline import files
def slowly(place):
    print("ready", flush=True)
    sys.stdin.readline()
files.{verb}(Path({str(tmp_path / "target")!r}), slowly)
print("done", flush=True)
""")
    [temporary] = names(tmp_path)
    assert files.sweep_temporary(tmp_path) == []
    assert names(tmp_path) == {temporary}
    assert writer.stdin is not None
    assert writer.stdout is not None
    writer.stdin.write("\n")
    writer.stdin.flush()
    assert writer.stdout.readline() == "done\n"
    assert names(tmp_path) == {"target"}


def test_a_temporary_of_a_killed_writer_is_swept(
    tmp_path: Path, other_process: Callable[[str], subprocess.Popen[str]]
) -> None:
    writer = other_process(f"""
import sys
import threading
from pathlib import Path
from pipeline import files
def slowly(file):
    print("ready", flush=True)
    sys.stdin.readline()
files.write_file(Path({str(tmp_path / "target")!r}), slowly)
""")
    writer.kill()
    writer.wait()
    assert len(names(tmp_path)) == 1
    assert len(files.sweep_temporary(tmp_path)) == 1
    assert names(tmp_path) == set()


def test_a_lock_keeps_a_second_process_out_and_ends_with_its_holder(
    tmp_path: Path, other_process: Callable[[str], subprocess.Popen[str]]
) -> None:
    lock = tmp_path / "run" / ".lock"
    holder = other_process(f"""
import sys
import threading
from pathlib import Path
from pipeline import files
with files.hold_lock(Path({str(lock)!r}), "at work"):
    print("ready", flush=True)
    sys.stdin.readline()
""")
    refused = pytest.raises(StorageError, match=r"another process is already at work\. Wait for it")
    with refused, files.hold_lock(lock, "at work"):
        pytest.fail("two processes hold one lock")
    holder.kill()
    holder.wait()
    with files.hold_lock(lock, "at work"), refused, files.hold_lock(lock, "at work"):
        pytest.fail("one lock was given twice in one process")
    with files.hold_lock(lock, "at work again"):
        pass


def test_a_lock_that_is_let_go_of_meanwhile_is_taken(tmp_path: Path) -> None:
    """Without a word in it yet, as of a holder that has just taken its own out again."""
    with open(tmp_path / ".lock", "w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        letting_go = threading.Timer(0.05, fcntl.flock, (holder, fcntl.LOCK_UN))
        letting_go.start()
        with files.hold_lock(tmp_path / ".lock", "at work"):
            assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
            again = files.hold_lock(tmp_path / ".lock", "at work")
            with pytest.raises(StorageError, match=rf"run this command again\. It is process {os.getpid()} on "), again:
                pass
        letting_go.join()
