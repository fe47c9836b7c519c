"""Folders published and removed as one: the old, the new or nothing, never a mixture."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import files
from pipeline.errors import StorageError
from tests.crashes import MOST_CALLS, Crash, Disk, disk_full


def fill(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "a").write_bytes(b"a2")
    (folder / "inner" / "b").write_bytes(b"b2")


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


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
    (tmp_path / "model").write_bytes(b"mine")
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        files.publish_folder(tmp_path / "model", fill)
    assert (tmp_path / "model").read_bytes() == b"mine"
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
    files.write_file(tmp_path / "file", b"")
    files.remove_file(tmp_path / "file")
    assert names(tmp_path) == set()
