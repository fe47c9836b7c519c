"""The one door to disk: whole or absent at every call that can fail, locks, and what reading refuses."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from pipeline import files
from pipeline.errors import ConfigError, DamagedDataError, StorageError
from tests.crashes import Crash, Disk, disk_full

OLD, NEW = b"old " * 1000, b"new! " * 1000
MOST_CALLS = 40


def in_pieces(file: IO[bytes]) -> None:
    for start in range(0, len(NEW), 2000):
        file.write(NEW[start : start + 2000])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def fill(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "a").write_bytes(b"a2")
    (folder / "inner" / "b").write_bytes(b"b2")


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


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


# ------------------------------------------------------------------ write_file


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


# ------------------------------------------------------------------ publish_folder, removal


def test_publish_folder_replaces_the_whole_folder(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    files.publish_folder(target, lambda folder: (folder / "gone").write_bytes(b"1") and None)
    assert content(target) == {"gone": b"1"}
    files.publish_folder(target, fill)
    assert content(target) == {"a": b"a2", "inner/b": b"b2"}
    assert names(target.parent) == {"model"}


@pytest.mark.parametrize("can_exchange", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("failure", [Crash, disk_full], ids=["crash", "disk full"])
def test_publish_folder_is_old_or_new_at_every_call(
    tmp_path: Path, can_exchange: bool, failure: Callable[[], BaseException]
) -> None:
    old, new = {"a": b"a1"}, {"a": b"a2", "inner/b": b"b2"}
    for fail_at in range(MOST_CALLS):
        target = tmp_path / str(fail_at) / "model"
        target.mkdir(parents=True)
        (target / "a").write_bytes(b"a1")
        with pytest.MonkeyPatch.context() as monkeypatch:
            if not can_exchange:
                monkeypatch.setattr(files, "_exchange", lambda one, other: False)
            disk = Disk(monkeypatch, fail_at, failure())
            try:
                files.publish_folder(target, fill)
            except (Crash, StorageError):
                pass
            else:
                break
        if target.exists():
            assert content(target) in (old, new), f"a mixture after a failure at {disk.calls[fail_at]}"
        else:  # the instant between two renames, which only a crash can make last
            assert not can_exchange
            assert failure is Crash
        if failure is disk_full and content(target) == old:
            assert names(target.parent) == {"model"}
        files.sweep_temporary(target.parent)
        assert names(target.parent) <= {"model"}
    assert 5 < fail_at < MOST_CALLS - 1
    assert content(target) == new


def test_publish_folder_syncs_every_file_before_the_folder_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    moments: list[tuple[str, set[str]]] = []
    real_exchange = files._exchange

    def exchange(one: Path, other: Path) -> bool:
        moments.append((one.name, {place for name, place in disk.calls if name == "fsync"}))
        return real_exchange(one, other)

    monkeypatch.setattr(files, "_exchange", exchange)
    disk = Disk(monkeypatch, None, Crash())
    files.publish_folder(tmp_path / "model", fill)
    [(staging, synced)] = moments
    below = {str(tmp_path / staging / part) for part in ("", "a", "inner", "inner/b")}
    assert {os.path.normpath(place) for place in below} <= synced
    assert disk.calls[-1][0] != "mkdir"
    assert ("fsync", str(tmp_path)) == [call for call in disk.calls if call[0] == "fsync"][-1]


def test_a_failing_fill_leaves_the_old_folder(tmp_path: Path) -> None:
    files.publish_folder(tmp_path / "model", fill)

    def fail(folder: Path) -> None:
        (folder / "half").write_bytes(b"1")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        files.publish_folder(tmp_path / "model", fail)
    assert names(tmp_path) == {"model"}
    assert content(tmp_path / "model") == {"a": b"a2", "inner/b": b"b2"}


def test_publish_folder_does_not_take_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(OLD)
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        files.publish_folder(tmp_path / "model", fill)
    assert (tmp_path / "model").read_bytes() == OLD
    assert names(tmp_path) == {"model"}


def test_removed_means_whole_or_absent(tmp_path: Path) -> None:
    for fail_at in range(MOST_CALLS):
        folder = tmp_path / str(fail_at) / "model"
        files.publish_folder(folder, fill)
        with pytest.MonkeyPatch.context() as monkeypatch:
            Disk(monkeypatch, fail_at, Crash())
            try:
                files.remove_folder(folder)
            except Crash:
                pass
            else:
                break
        assert not folder.exists() or content(folder) == {"a": b"a2", "inner/b": b"b2"}
        files.sweep_temporary(folder.parent)
        assert names(folder.parent) <= {"model"}
    assert fail_at > 0
    assert names(folder.parent) == set()


def test_removing_what_is_absent_is_fine(tmp_path: Path) -> None:
    files.remove_file(tmp_path / "no" / "file")
    files.remove_folder(tmp_path / "no" / "folder")
    files.write_file(tmp_path / "file", NEW)
    files.remove_file(tmp_path / "file")
    assert names(tmp_path) == set()


# ------------------------------------------------------------------ sweeping and locks


def test_a_sweep_takes_only_what_this_door_left(tmp_path: Path) -> None:
    for name in (".file.0123456789ab.tmp", "notes.tmp", ".notes.tmp", ".file.xyz.tmp", "file"):
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / ".model.0123456789ab.tmp" / "inner").mkdir(parents=True)
    removed = files.sweep_temporary(tmp_path)
    assert {path.name for path in removed} == {".file.0123456789ab.tmp", ".model.0123456789ab.tmp"}
    assert names(tmp_path) == {"notes.tmp", ".notes.tmp", ".file.xyz.tmp", "file"}
    assert files.sweep_temporary(tmp_path / "absent") == []


@pytest.mark.parametrize("verb", ["write_file", "publish_folder"])
def test_a_temporary_survives_a_sweep_while_its_writer_lives(
    tmp_path: Path, verb: str, other_process: Callable[[str], subprocess.Popen[str]]
) -> None:
    writer = other_process(f"""
import sys
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


# ------------------------------------------------------------------ refusals of the system


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"the disk is full .*What is sealed is safe; free some space and run the same command again"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EFBIG, "the disk is full"),
        (errno.EROFS, r"cannot be written .*Choose another place with --run-dir"),
        (errno.EACCES, "cannot be written"),
        (errno.EIO, "the disk failed"),
    ],
)
def test_a_refusal_names_the_place_and_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    Disk(monkeypatch, 3, OSError(number, os.strerror(number)))
    with pytest.raises(StorageError, match=f"^{tmp_path / 'file'}: {message}") as caught:
        files.write_file(tmp_path / "file", NEW)
    assert caught.value.exit_code == 7


def test_other_errors_of_the_system_keep_their_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch, 3, OSError(errno.EMFILE, "Too many open files"))
    with pytest.raises(OSError, match="Too many open files"):
        files.write_file(tmp_path / "file", NEW)


def test_a_disk_filled_by_a_library_in_rust_is_recognised(tmp_path: Path) -> None:
    """safetensors and tokenizers raise the system's refusal under classes of their own."""

    def full(folder: Path) -> None:
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(StorageError, match="the disk is full"):
        files.publish_folder(tmp_path / "model", full)


def test_something_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        files.write_file(tmp_path / "file" / "below", NEW)
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(StorageError, match="a folder stands where a file is needed"):
        files.write_file(tmp_path / "folder", NEW)
    assert names(tmp_path) == {"file", "folder"}


# ------------------------------------------------------------------ appended lines


def test_lines_are_appended_and_made_durable_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "logs" / "metrics.jsonl"
    files.append_lines(path, ["{}", "ü"])
    files.append_lines(path, ["2"])
    assert path.read_bytes() == "{}\nü\n2\n".encode()
    disk = Disk(monkeypatch, None, Crash())
    files.sync_file(path)
    assert disk.calls == [("fsync", str(path))]


# ------------------------------------------------------------------ reading

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_json_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.json"
    files.write_json(path, value)
    assert files.read_json(path) == value
    assert json.loads(files.canonical_json(value)) == value


def test_a_file_name_that_is_not_utf8_survives_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    files.write_json(tmp_path / "report.json", {"key": name})
    assert files.read_json(tmp_path / "report.json") == {"key": name}
    (tmp_path / "report.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_json_does_not_have_are_not_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "a.json", {"a": [value]})
    with pytest.raises(ValueError, match="JSON compliant"):
        files.canonical_json({"a": [value]})
    assert names(tmp_path) == set()


def test_canonical_json_is_one_byte_string() -> None:
    one = {"b": [1, 2.5, None, True], "a": {"ü": "\n", "z": -0.0}}
    other = {"a": {"z": -0.0, "ü": "\n"}, "b": (1, 2.5, None, True)}
    assert files.canonical_json(one) == files.canonical_json(other)
    assert files.canonical_json(one) == b'{"a":{"z":-0.0,"\\u00fc":"\\n"},"b":[1,2.5,null,true]}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b'{"a": 1, "a": 2}',
        b'{"deep": {"a": 1, "a": 1}}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a": ' + b"9" * 10_000 + b"}",
        b'{"a": "\xff"}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": 1} trailing',
    ],
    ids=[
        "empty", "cut short", "a list", "null", "a key twice", "a key twice, deep", "NaN", "infinity", "beyond float64",
        "too deep", "too many digits", "not UTF-8", "UTF-16", "more after it",
    ],
)  # fmt: skip
def test_what_is_not_a_sound_json_object_is_damage(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "seal.json"
    path.write_bytes(data)
    with pytest.raises(DamagedDataError, match=f"^{path}: "):
        files.read_json(path)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with open(path, "wb") as file:
        file.truncate(files.MAX_JSON_BYTES + 1)
    with pytest.raises(DamagedDataError, match=r"67,108,865 bytes where at most 67,108,864 were expected"):
        files.read_json(path)
    path.write_bytes(b"{}" + b" " * 8)
    assert files.read_json(path, max_bytes=10) == {}
    assert files.read_bytes(path) == b"{}" + b" " * 8
    with pytest.raises(DamagedDataError, match="10 bytes where at most 9"):
        files.read_json(path, max_bytes=9)


def test_a_missing_file_is_a_config_error_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file; expected a plan\. Run cache-teacher"):
        files.require_file(tmp_path / "plan.json", "a plan", "Run cache-teacher.")
    (tmp_path / "plan.json").touch()
    assert files.require_file(tmp_path / "plan.json", "a plan", "") == tmp_path / "plan.json"


def test_folder_size_counts_all_files_below(tmp_path: Path) -> None:
    files.write_file(tmp_path / "a" / "b", b"123")
    files.write_file(tmp_path / "c", b"45")
    assert files.folder_size_bytes(tmp_path) == 5
