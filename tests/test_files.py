"""The one door to disk: whole or absent, at every call that can fail."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import xxhash

from pipeline import files
from pipeline.errors import DamagedDataError, StorageError
from pipeline.links import refuse_links_out
from tests.crashes import MOST_CALLS, Crash, Disk, disk_full

OLD, NEW = b"old " * 1000, b"new! " * 1000


def in_pieces(file: IO[bytes]) -> None:
    for start in range(0, len(NEW), 2000):
        file.write(NEW[start : start + 2000])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("data", [b"", b"x", NEW], ids=["empty", "one byte", "more"])
def test_write_file_returns_the_digest_of_what_is_on_disk(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "made" / "on the way" / "file"
    digest = files.write_file(path, data)
    assert path.read_bytes() == data
    assert digest == files.FileDigest(len(data), xxhash.xxh3_128(data).hexdigest())
    assert digest == files.digest_file(path) == files.digest_bytes(data)
    assert files.sha256_file(path) == hashlib.sha256(data).hexdigest()
    assert names(path.parent) == {"file"}


def test_write_file_takes_a_function_and_digests_what_it_left(tmp_path: Path) -> None:
    def write_then_patch(file: IO[bytes]) -> None:
        file.write(b"0" * 10)
        file.seek(0)
        file.write(b"1")

    digest = files.write_file(tmp_path / "file", write_then_patch)
    assert (tmp_path / "file").read_bytes() == b"1" + b"0" * 9
    assert digest == files.digest_bytes(b"1" + b"0" * 9)


def test_files_are_readable_by_others_under_the_usual_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        files.write_file(tmp_path / "file", NEW)
        files.publish_folder(tmp_path / "folder", lambda folder: (folder / "f").touch(mode=0o600))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "folder" / "f").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o755


def test_write_file_syncs_the_bytes_before_the_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, None, Crash())
    files.write_file(tmp_path / "file", NEW)
    assert disk.names() == ["open", "write", "flush", "fsync", "replace", "fsync"]
    temporary = disk.calls[0][1]
    assert disk.calls[3] == ("fsync", temporary)
    assert disk.calls[4] == ("replace", temporary)
    assert disk.calls[5] == ("fsync", str(tmp_path))


def test_new_folders_are_durable_before_the_file_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, None, Crash())
    files.write_file(tmp_path / "a" / "b" / "file", NEW)
    before_open = disk.calls[: disk.names().index("open")]
    assert before_open == [
        ("mkdir", str(tmp_path / "a")),
        ("fsync", str(tmp_path)),
        ("mkdir", str(tmp_path / "a" / "b")),
        ("fsync", str(tmp_path / "a")),
    ]


@pytest.mark.parametrize("new", [NEW, in_pieces], ids=["bytes", "function"])
@pytest.mark.parametrize("before", [None, OLD], ids=["absent", "replaced"])
@pytest.mark.parametrize("failure", [Crash, disk_full], ids=["crash", "disk full"])
def test_write_file_is_whole_or_absent_at_every_call(
    tmp_path: Path, new: Any, before: bytes | None, failure: Callable[[], BaseException]
) -> None:
    for fail_at in range(MOST_CALLS):
        folder = tmp_path / str(fail_at)
        folder.mkdir()
        if before is not None:
            (folder / "file").write_bytes(before)
        with pytest.MonkeyPatch.context() as monkeypatch:
            disk = Disk(monkeypatch, fail_at, failure())
            try:
                files.write_file(folder / "file", new)
            except (Crash, StorageError):
                pass
            else:
                break
        found = (folder / "file").read_bytes() if (folder / "file").exists() else None
        assert found in (before, NEW), f"neither old nor new after a failure at {disk.calls[fail_at]}"
        if failure is disk_full:
            assert not names(folder) - {"file"}, "an error that could be handled left a temporary file"
        files.sweep_temporary(folder)
        assert not names(folder) - {"file"}, "a sweep left something behind"
    assert 5 < fail_at < MOST_CALLS - 1
    assert (folder / "file").read_bytes() == NEW


def test_an_error_in_the_writing_function_leaves_the_old_file(tmp_path: Path) -> None:
    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise ZeroDivisionError

    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(ZeroDivisionError):
        files.write_file(tmp_path / "file", fail)
    assert names(tmp_path) == {"file"}
    assert (tmp_path / "file").read_bytes() == OLD


def test_a_disk_that_returns_other_bytes_is_noticed_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_fsync = os.fsync

    def rot(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.pwrite(descriptor, b"?", 3)
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", rot)
    with pytest.raises(DamagedDataError, match="read back differ"):
        files.write_file(tmp_path / "file", NEW)
    assert names(tmp_path) == set()


def test_killed_at_any_moment_leaves_old_or_new(tmp_path: Path) -> None:
    """The same promise, with a real SIGKILL between real calls of a real process."""
    code = f"""
import itertools, sys
from pathlib import Path
from pipeline import files
print("ready", flush=True)
for round in itertools.count():
    files.write_file(Path({str(tmp_path / "file")!r}), bytes([round % 251]) * 300_000)
"""
    (tmp_path / "file").write_bytes(bytes([0]) * 300_000)
    for delay_seconds in (0.01, 0.03, 0.05):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay_seconds)
        process.kill()
        process.communicate()
        data = (tmp_path / "file").read_bytes()
        assert len(data) == 300_000
        assert len(set(data)) == 1
        files.sweep_temporary(tmp_path)
        assert names(tmp_path) == {"file"}


def test_lines_are_appended_and_made_durable_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "logs" / "metrics.jsonl"
    files.append_lines(path, ["{}", "ü"])
    files.append_lines(path, ["2"])
    assert path.read_bytes() == "{}\nü\n2\n".encode()
    disk = Disk(monkeypatch, None, Crash())
    files.sync_file(path)
    assert disk.calls == [("fsync", str(path))]


# ------------------------------------------------------------------ links


def test_links_within_a_folder_and_of_a_hub_download_are_as_good_as_files(tmp_path: Path) -> None:
    """A snapshot holds links to the blobs beside all snapshots."""
    snapshot, blob = tmp_path / "repository" / "snapshots" / "a1b2" / "cache", tmp_path / "repository" / "blobs" / "c3"
    for path in (blob, snapshot / "there", tmp_path / "outside"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"bytes")
    links = {"near": snapshot / "there", "hub": blob, "out": tmp_path / "outside"}
    for name, target in links.items():
        (snapshot / name).symlink_to(target)
    refuse_links_out(snapshot, [snapshot / "near", snapshot / "hub", snapshot / "there"])
    with pytest.raises(DamagedDataError, match=r"out: is a symbolic link to .*/outside, outside .*cache\. Put"):
        refuse_links_out(snapshot, [snapshot / "near", snapshot / "out"])
    with pytest.raises(DamagedDataError, match="hub: is a symbolic link"):
        refuse_links_out(tmp_path / "other", [snapshot / "hub"])
