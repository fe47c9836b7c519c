"""A run directory: the resolved config first, status.json for schedulers, one process at a time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import files
from pipeline.config import Section, free
from pipeline.errors import ConfigError, IdentityError, IncompleteInputError, MachineError, StorageError
from pipeline.pause import NoRoomError, PauseRequest
from pipeline.runs import Outcome, RunDirectory, Session, stages_of


class Small(Section):
    """A config small enough to read at a glance."""

    size: int = free(3)


def status(run: RunDirectory) -> dict[str, Any]:
    return files.read_json(run.root / "status.json")


def test_the_files_of_a_run_are_where_the_design_puts_them() -> None:
    run = RunDirectory(Path("artifacts/my"))
    found = [run.cache, run.student, run.model, run.metrics, run.checkpoints, run.evaluation, run.report]
    assert [str(path.relative_to(run.root)) for path in found] == [
        "cache",
        "student",
        "student/model",
        "student/metrics.jsonl",
        "student/checkpoints",
        "eval/eval.json",
        "report/report.html",
    ]


def test_the_resolved_config_is_there_before_work_starts(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "new" / "run")
    with run.at_work("cache-teacher", Small()):
        assert yaml.safe_load((run.root / "config.yaml").read_text(encoding="utf-8")) == {"size": 3}
        entry = {"state": "running", "progress": {}, "message": "", "next_command": None}
        assert status(run) == {"stage": "cache-teacher", **entry, "stages": {"cache-teacher": entry}}


def test_a_failure_is_left_in_the_status_and_goes_on(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(ConfigError), run.at_work("eval"):
        raise ConfigError("nothing to measure")
    assert (status(run)["state"], status(run)["message"]) == ("failed", "nothing to measure")
    with pytest.raises(KeyboardInterrupt), run.at_work("eval"):
        raise KeyboardInterrupt
    assert (status(run)["state"], status(run)["message"]) == ("failed", "KeyboardInterrupt")
    assert not (tmp_path / "config.yaml").exists()


@pytest.mark.parametrize("error", [ConfigError("no such key"), IdentityError("another cache")])
def test_a_refused_command_leaves_the_run_as_it_was(tmp_path: Path, error: Exception) -> None:
    run = RunDirectory(tmp_path)
    with run.at_work("train-student", Small(size=4)):
        run.write_status("train-student", "complete", message="12 steps done")
    before = [path.read_bytes() for path in (run.config, run.status)]
    with pytest.raises(type(error)), run.at_work("train-student", Small(size=5)):
        raise error
    assert [path.read_bytes() for path in (run.config, run.status)] == before


@pytest.mark.parametrize("error", [IncompleteInputError("no seal"), MachineError("no card")])
def test_a_command_that_could_not_begin_has_failed_and_leaves_the_config(tmp_path: Path, error: Exception) -> None:
    """Others read their roots from it. Where something was kept by then, it is what that was made with."""
    run = RunDirectory(tmp_path)
    with run.at_work("train-student", Small(size=4)):
        run.write_status("train-student", "complete")
    before = run.config.read_bytes()
    with pytest.raises(type(error)), run.at_work("train-student", Small(size=5)):
        raise error
    assert (run.config.read_bytes(), status(run)["state"], status(run)["message"]) == (before, "failed", str(error))

    def fail_later() -> None:
        files.write_file(run.metrics, b"{}\n")
        raise error

    with pytest.raises(type(error)), run.at_work("train-student", Small(size=5)):
        fail_later()
    assert yaml.safe_load(run.config.read_text(encoding="utf-8")) == {"size": 5}


def test_a_pause_is_remembered_whatever_runs_after_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_status("cache-teacher", "complete", message="all shards sealed")
    run.write_status("train-student", "paused", {"steps": 10, "of": 40}, "paused", ["sad-pipeline", "train-student"])
    run.write_status("eval", "complete", message="4 models measured")
    left = status(run)
    assert (left["stage"], left["state"], left["message"]) == ("eval", "complete", "4 models measured")
    assert left["next_command"] == "sad-pipeline train-student"
    assert {name: entry["state"] for name, entry in left["stages"].items()} == {
        "cache-teacher": "complete",
        "train-student": "paused",
        "eval": "complete",
    }
    assert left["stages"]["train-student"]["progress"] == {"steps": 10, "of": 40}
    run.write_status("train-student", "complete", {"steps": 40, "of": 40})
    assert status(run)["next_command"] is None


def test_a_status_of_an_older_version_or_a_damaged_one_is_no_obstacle(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.status.write_text('{"stage": "train-student", "state": "paused", "next_command": "sad-pipeline x"}')
    run.write_status("eval", "complete")
    assert status(run)["next_command"] == "sad-pipeline x"
    run.status.write_text('{"stage": "train')
    run.write_status("eval", "complete")
    assert list(status(run)["stages"]) == ["eval"]


PAUSED = {"state": "paused", "progress": {"steps": 4}, "message": "", "next_command": "sad-pipeline x"}


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ([], {}),
        ("paused", {}),
        ({"train-student": "paused"}, {}),
        ({"train-student": None, "eval": PAUSED}, {"eval": PAUSED}),
        ({"train-student": {"statf": "paused"}}, {}),
        ({"train-student": {"state": ["paused"]}}, {}),
        ({"eval": {"state": "paused"}}, {"eval": PAUSED | {"progress": {}, "next_command": None}}),
        ({"eval": PAUSED | {"progress": [4], "message": 5}}, {"eval": PAUSED | {"progress": {}}}),
        ({"eval": PAUSED | {"progress": {"steps": 4, "of": "ten"}, "more": 1}}, {"eval": PAUSED}),
        ({"eval": PAUSED | {"next_command": {}, "waits_for": 1}}, {"eval": PAUSED | {"next_command": None}}),
        ({"eval": PAUSED | {"waits_for": "room"}}, {"eval": PAUSED | {"waits_for": "room"}}),
    ],
)
def test_of_a_status_what_is_of_the_right_form_counts(tmp_path: Path, left: Any, expected: dict[str, Any]) -> None:
    assert stages_of({"stages": left}) == expected
    run = RunDirectory(tmp_path)
    files.write_json(run.status, {"stage": "train-student", "stages": left})
    with run.at_work("report"):
        assert {name: entry for name, entry in status(run)["stages"].items() if name != "report"} == expected


def test_a_flipped_bit_in_the_status_stops_no_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in every byte of it."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # hundreds of them, and no power cut
    run = RunDirectory(tmp_path)
    run.write_status("cache-teacher", "complete", {"shards": 9, "of": 9}, "all 9 shards sealed")
    run.write_status("train-student", "paused", {"steps": 4}, "paused", ["sad-pipeline", "x"], waits_for="room")
    whole = run.status.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        run.status.write_bytes(damaged)
        with run.at_work("eval"):
            assert status(run)["stages"]["eval"]["state"] == "running"


def test_a_failure_that_cannot_be_written_down_stays_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path)

    def refuse(*_: Any) -> None:
        raise StorageError("the disk is full")

    def fail_on_a_full_disk() -> None:
        monkeypatch.setattr(files, "write_json", refuse)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), run.at_work("eval"):
        fail_on_a_full_disk()


def test_what_a_crash_left_is_swept_at_the_next_start(tmp_path: Path) -> None:
    left = [
        tmp_path / ".status.json.0123456789ab.tmp",
        tmp_path / "student" / "checkpoints" / "step-00000005" / ".ema.safetensors.0123456789ab.tmp",
    ]
    for path in left:
        files.make_folder(path.parent)
        path.write_bytes(b"half")
    with RunDirectory(tmp_path).at_work("train-student"):
        assert not any(path.exists() for path in left)


def test_a_folder_of_somebody_elses_below_a_run_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lost+found, at the top of a disk of one's own. The superuser is let in, so the refusal is made here."""
    locked = tmp_path / "lost+found"
    locked.mkdir()
    real, listed = os.access, Path.iterdir

    def refused(path: Path) -> Any:
        if path == locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(path)

    monkeypatch.setattr(
        os, "access", lambda path, mode, **options: Path(path) != locked and real(path, mode, **options)
    )
    monkeypatch.setattr(Path, "iterdir", refused)
    run = RunDirectory(tmp_path)
    with run.at_work("train-student"):
        run.write_status("train-student", "complete")
    assert run.read_status()["state"] == "complete"


def test_names_that_a_crash_left_unsynced_are_durable_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, synced = RunDirectory(tmp_path / "run"), list[Path]()
    files.make_folder(run.checkpoints)
    files.make_folder(run.cache / "shards")
    files.make_folder(tmp_path / "mounted")
    monkeypatch.setattr(files, "sync_folder", synced.append)
    monkeypatch.chdir(tmp_path)
    with run.at_work("cache-teacher"):
        of_the_run = [run.root, run.cache, run.cache / "shards", run.student, run.checkpoints]
        assert set(synced) == {tmp_path, *of_the_run}
        synced.clear()


def test_of_the_folders_above_a_run_those_are_durable_that_a_start_may_have_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the working folder, one that cannot be written, or one of another file system."""
    work, synced = tmp_path / "work", list[Path]()
    run = RunDirectory(Path("artifacts", "my"))
    files.make_folder(work / run.root)
    monkeypatch.chdir(work)
    monkeypatch.setattr(files, "sync_folder", lambda folder: synced.append(folder.absolute()))
    with run.at_work("eval"):
        assert synced[:3] == [work / "artifacts", work, work / "artifacts" / "my"]
    synced.clear()
    monkeypatch.chdir("/")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and access(path, mode))
    with RunDirectory(work / run.root).at_work("eval"):
        assert synced[:3] == [work / "artifacts", work, work / "artifacts" / "my"]
    assert tmp_path not in synced


def test_a_disk_that_fails_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory(tmp_path / "run")
    files.make_folder(run.cache)

    def full(folder: Path) -> None:
        if folder == run.cache:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "sync_folder", full)
    with pytest.raises(StorageError, match=f"^{run.cache}: the disk is full"), run.at_work("cache-teacher"):
        raise AssertionError("nothing is begun")


@pytest.mark.parametrize("state", ["complete", "paused"])
def test_an_outcome_names_the_next_command_only_where_there_is_one(
    tmp_path: Path, state: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sad-pipeline", "cache-teacher", "-c", "my config.yaml", "--set", "data.path=it's"]
    session = Session(RunDirectory(tmp_path), PauseRequest(), command)
    outcome = Outcome(state, "3 of 4 shards are sealed", {"sealed": 3, "shards": 4})
    assert session.finish("cache-teacher", outcome) is outcome
    quoted = """sad-pipeline cache-teacher -c 'my config.yaml' --set 'data.path=it'"'"'s'"""
    entry = {
        "state": state,
        "progress": {"sealed": 3, "shards": 4},
        "message": "3 of 4 shards are sealed",
        "next_command": quoted if state == "paused" else None,
    }
    assert status(session.run) == {"stage": "cache-teacher", **entry, "stages": {"cache-teacher": entry}}
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "cache-teacher: 3 of 4 shards are sealed"
    assert said[1:] == ([f"To continue: {quoted}"] if state == "paused" else [])


def test_a_stage_that_is_killed_leaves_the_command_that_goes_on(tmp_path: Path) -> None:
    run, command = RunDirectory(tmp_path), ["sad-pipeline", "train-student", "-c", "my config.yaml"]
    with run.at_work("train-student", command=command):
        left = status(run)
        assert (left["state"], left["next_command"]) == ("running", "sad-pipeline train-student -c 'my config.yaml'")
    run.write_status("train-student", "complete")
    assert status(run)["next_command"] is None


def test_a_pause_for_want_of_room_says_so_beside_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A scheduler that follows the next command alone would follow it for ever."""
    run = RunDirectory(tmp_path)
    session = Session(run, PauseRequest(), ["sad-pipeline", "train-student"])
    session.finish("train-student", Outcome.paused("after step 4 of 8", NoRoomError("the disk is small"), {"steps": 4}))
    assert capsys.readouterr().err.splitlines() == [
        "train-student: paused after step 4 of 8: the disk is small",
        "To continue, once there is room: sad-pipeline train-student",
    ]
    assert (status(run)["waits_for"], status(run)["progress"]) == ("room", {"steps": 4})
    run.write_status("report", "complete")
    left = status(run)
    assert (left["next_command"], left["waits_for"]) == ("sad-pipeline train-student", "room")
    assert ["waits_for" in left["stages"][stage] for stage in ("train-student", "report")] == [True, False]
    session.finish("train-student", Outcome.paused("after step 5 of 8", "SIGINT was received"))
    assert "waits_for" not in status(run)
    assert "To continue: sad-pipeline train-student" in capsys.readouterr().err


def test_a_second_process_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from pipeline.runs import RunDirectory
with RunDirectory(Path({str(tmp_path)!r})).at_work("cache-teacher"):
    print("ready", flush=True)
    sys.stdin.readline()
"""
    first = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "ready\n"
    before = (tmp_path / "status.json").read_bytes()
    refused = pytest.raises(StorageError, match="another process is already at work in this run directory")
    with refused as caught, RunDirectory(tmp_path).at_work("train-student", Small()):
        pytest.fail("two processes are at work in one run")
    assert str(tmp_path) in str(caught.value)
    assert (tmp_path / "status.json").read_bytes() == before
    assert not (tmp_path / "config.yaml").exists()
    first.communicate("\n", timeout=30)
    assert first.returncode == 0
    with RunDirectory(tmp_path).at_work("train-student"):
        assert status(RunDirectory(tmp_path))["stage"] == "train-student"
