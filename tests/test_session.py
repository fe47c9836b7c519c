"""What a session allows: flags before config, when it began, and what is said of it."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import pytest

from pipeline import console, pause, session
from pipeline.config import keys_of_kind
from pipeline.errors import ConfigError
from pipeline.pause import PauseRequest
from pipeline.runs import Session
from pipeline.session import SessionSettings, parse_start, pause_request, session_age
from stages import cache_teacher
from stages.config import load_run_config
from tests.stages.toys import run

NOW = 1_795_000_000.0  # 2026-11-18T11:06:40Z
HOST = "KAGGLE_KERNEL_RUN_TYPE"


@pytest.fixture(autouse=True)
def _clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is NOW; this process began 100 seconds ago, on no notebook host."""
    monkeypatch.setattr(session.time, "time", lambda: NOW)
    monkeypatch.setattr(pause.time, "monotonic", lambda: 100.0)
    monkeypatch.setattr(pause, "_PROCESS_START", 0.0)
    monkeypatch.delenv(HOST, raising=False)
    console._said.clear()


# ------------------------------------------------------------------ when it began


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1794990000", 1_794_990_000),
        ("1794990000.5", 1_794_990_000.5),
        ("2026-11-18T08:20:00Z", 1_794_990_000),
        ("2026-11-18T09:20:00+01:00", 1_794_990_000),
        ("2026-11-18 08:20:00+00:00", 1_794_990_000),
        (" 2026-11-18T08:20Z ", 1_794_990_000),
        (f"{NOW + 59}", NOW + 59),
    ],
)
def test_a_start_is_seconds_or_a_time(text: str, moment: float) -> None:
    assert parse_start(text, NOW) == moment


def test_a_time_without_a_zone_is_this_machines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patches:
        patches.setenv("TZ", "Etc/GMT-3")
        time.tzset()
        found = parse_start("2026-11-18T11:20:00", NOW)
    time.tzset()
    assert found == 1_794_990_000


@pytest.mark.parametrize("text", ["", "soon", "11", "2026", "0", "-5", "nan", "inf", "0001-01-01", "12:30", "1e5"])
def test_what_is_no_time_of_a_session_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected seconds since 1970, as `date \+%s` prints them, or a time such"):
        parse_start(text, NOW)


@pytest.mark.parametrize("text", [f"{NOW + 61}", f"{NOW * 1000}", "2027-01-01T00:00:00Z"])
def test_the_future_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"found a time in the future. Now is 2026-11-18T.*, or 1795000000 seconds"):
        parse_start(text, NOW)


def test_the_age_is_that_at_the_start_of_the_process() -> None:
    assert session_age(f"{NOW - 3600}") == (3500.0, "its start 1 h 00 min ago")
    assert session_age(f"{NOW - 99}")[0] == 0.0, "a session that began after the process is as old as it"
    assert session_age(None) == (0.0, "the start of this command")


def test_on_a_notebook_host_a_session_is_as_old_as_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOST, "Batch")
    monkeypatch.setattr(session, "_machine_seconds", lambda: 4000.0)
    assert session_age(None) == (3900.0, "the start of this notebook's machine 1 h 06 min ago")


def test_on_a_notebook_host_the_older_of_machine_and_given_start_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gives the start when its cell runs does not know how long the editor was open before."""
    monkeypatch.setenv(HOST, "Interactive")
    monkeypatch.setattr(session, "_machine_seconds", lambda: 7200.0)
    assert session_age(f"{NOW - 300}") == (
        7100.0,
        "the start of this notebook's machine 2 h 00 min ago (the given start 5 min 00 s ago is later)",
    )
    assert session_age(f"{NOW - 7260}") == (7160.0, "its start 2 h 01 min ago")
    monkeypatch.delenv(HOST)
    assert session_age(f"{NOW - 300}") == (200.0, "its start 5 min 00 s ago"), "elsewhere machines do not end with it"


@pytest.mark.parametrize("seconds", [None, 99.0, -5.0, 12 * 3600 + 1.0])
def test_a_machine_that_did_not_begin_with_the_session_is_said(
    seconds: float | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(HOST, "Interactive")
    monkeypatch.setattr(session, "_machine_seconds", lambda: seconds)
    assert session_age(f"{NOW - 300}") == (200.0, "its start 5 min 00 s ago"), "a given start is known"
    assert capsys.readouterr().err == ""
    assert session_age(None) == (0.0, "the start of this command")
    assert "is not known; its time counts from this command on. Give the start with --session-start, or for all" in (
        capsys.readouterr().err
    )


def test_a_machine_says_how_old_it_is() -> None:
    seconds = session._machine_seconds()
    with open("/proc/uptime", encoding="utf-8") as file:
        uptime = float(file.read().split()[0])
    assert seconds is not None
    assert 0 < seconds <= uptime + 1


def test_where_nobody_says_a_machine_has_no_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.Path, "read_text", lambda *args, **kwargs: "1 (a b) S")
    assert session._machine_seconds() is None


# ------------------------------------------------------------------ what it allows


def test_budget_and_limit_come_from_the_settings_and_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").write_bytes(b"x" * 41_000)
    settings = SessionSettings(time_budget_hours=2, max_output_gb=0.05, output_folders=[str(tmp_path / "other")])
    request = pause_request(settings, tmp_path / "run", f"{NOW - 3600}")
    assert capsys.readouterr().err.splitlines() == [
        "session: 2 h 00 min from its start 1 h 00 min ago, of which 1 h 00 min are left",
        f"output: at most 50 MB, 41 kB in {tmp_path / 'run'} and {tmp_path / 'other'}",
    ]
    assert request.output.max_bytes == 50_000_000
    assert request.output.folders == (tmp_path / "run", tmp_path / "other")
    request.note_unit(2999.0)  # with the margin 1 s less than the hour
    assert request.reason() is None
    request.note_unit(3001.0)
    assert request.reason() is not None


def test_without_an_end_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = pause_request(SessionSettings(), tmp_path)
    assert (request.reason(), request.output.max_bytes) == (None, None)
    assert capsys.readouterr().err == ""
    pause_request(SessionSettings(), tmp_path, f"{NOW - 3600}")
    assert "has no meaning without a time budget" in capsys.readouterr().err


# ------------------------------------------------------------------ through the command line


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """Sessions that cache-teacher was started with; it does nothing itself."""
    started: list[Session] = []

    def stage(config: object, given: Session) -> None:
        started.append(given)
        raise ConfigError("enough")

    monkeypatch.setattr(cache_teacher, "run", stage)
    return started


def left_seconds(request: PauseRequest) -> float:
    """The longest unit of work that still fits, by trying."""
    low, high = 0.0, 1e9
    while high - low > 1e-3:
        middle = (low + high) / 2
        request._units.clear()
        request.note_unit(middle)
        low, high = (middle, high) if request.reason() is None else (low, middle)
    return 1.2 * low


@pytest.mark.parametrize(
    ("options", "seconds", "num_bytes"),
    [
        ([], math.inf, None),
        (["--set", "session.time_budget_hours=11"], 11 * 3600 - 100, None),
        (["--set", "session.time_budget_hours=11", "--time-budget", "0.5"], 1700, None),
        (["--set", "session.max_output_gb=19"], math.inf, 19e9),
        (["--set", "session.max_output_gb=19", "--max-output-gb", "0.25"], math.inf, 250e6),
        (["--time-budget", "2", "--session-start", f"{NOW - 3600:.0f}"], 3600, None),
    ],
)
def test_flags_go_before_the_config(
    options: list[str], seconds: float, num_bytes: float | None, begun: list[Session]
) -> None:
    assert run("cache-teacher", "-c", "demo", *options).code == 2
    [given] = begun
    assert left_seconds(given.pause) == pytest.approx(min(seconds, 1.2e9), abs=0.01)
    assert given.pause.output.max_bytes == num_bytes


def test_the_start_may_be_in_the_environment_of_all_commands(
    begun: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAD_SESSION_START", f"{NOW - 1800:.0f}")
    run("cache-teacher", "-c", "demo", "--time-budget", "1")
    assert left_seconds(begun[0].pause) == pytest.approx(1800, abs=0.01)


def test_a_notebook_that_says_when_its_cell_began_gets_what_its_host_leaves(
    begun: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOST, "Interactive")
    monkeypatch.setenv("SAD_SESSION_START", f"{NOW - 60:.0f}")
    monkeypatch.setattr(session, "_machine_seconds", lambda: 2 * 3600.0)
    ended = run("cache-teacher", "-c", "demo", "--time-budget", "11")
    assert left_seconds(begun[0].pause) == pytest.approx(9 * 3600, abs=0.01)
    assert "session: 11 h 00 min from the start of this notebook's machine 2 h 00 min ago (the given" in ended.stderr


@pytest.mark.parametrize("flag", [["--time-budget", "nan"], ["--time-budget", "inf"], ["--max-output-gb", "inf"]])
def test_flags_that_are_no_numbers_are_refused(flag: list[str], begun: list[Session]) -> None:
    ended = run("cache-teacher", "-c", "demo", *flag)
    assert (ended.code, begun) == (2, [])
    assert "finite number" in ended.stderr


@pytest.mark.parametrize(
    "start", [["--session-start", "1794990000"], ["--session-start=1794990000"], ["--session-start", "2026-11-18T08Z"]]
)
def test_the_next_command_is_one_of_another_session(
    start: list[str], begun: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["cache-teacher", "-c", "demo", *start, "--time-budget", "9"]
    monkeypatch.setattr(sys, "argv", ["sad-pipeline", *arguments])
    run(*arguments)
    assert begun[0].command == ["sad-pipeline", "cache-teacher", "-c", "demo", "--time-budget", "9"]


def test_the_keys_are_free() -> None:
    frees = keys_of_kind(load_run_config("kaggle-p100"), "free")
    assert {key for key in frees if key.startswith("session.")} == {
        "session.time_budget_hours",
        "session.max_output_gb",
        "session.output_folders",
    }
