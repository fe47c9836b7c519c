"""bench quality at toy size: a study that is stopped, from inside and from outside, and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.evaluation.study.results import load_results
from pipeline.pause import PauseRequest
from tests.benches.quality.toy_study import ARMS, MARKS, Study, quality, words
from tests.stages.toys import REPOSITORY, run

pytestmark = MARKS


def test_done_again_it_trains_nothing_and_says_the_same(study: Study) -> None:
    root, printed = study
    before = {path: path.stat().st_mtime_ns for path in root.rglob("chosen.json")}
    ended = quality(root.parent, *ARMS, "--json")
    assert json.loads(ended.stdout) == printed
    assert {path: path.stat().st_mtime_ns for path in root.rglob("chosen.json")} == before


def test_stopped_again_and_again_it_says_the_same(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def now_and_then(self: PauseRequest) -> str | None:
        nonlocal calls
        calls += 1
        return "it was asked for" if calls % 11 == 0 else None

    monkeypatch.setattr(PauseRequest, "reason", now_and_then)
    stops, ended = 0, quality(tmp_path, *ARMS, "--json")
    while not ended.stdout:
        assert ended.code == 0, ended.stderr
        assert "The same command goes on from there" in ended.stderr
        stops += 1
        ended = quality(tmp_path, *ARMS, "--json")
    assert stops > 8
    assert json.loads(ended.stdout) == study[1]
    assert (tmp_path / "quality" / "quality.json").read_bytes() == (study[0] / "quality.json").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_several_at_a_time_stopped_from_outside_say_the_same(
    number: signal.Signals, study: Study, tmp_path: Path
) -> None:
    arguments = ["bench", "quality", *words(tmp_path), *ARMS, "--json", "--workers", "2"]
    command = [sys.executable, "-m", "stages", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, start_new_session=True, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while num_done(tmp_path) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does: to all of them
        else:
            process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert 3 <= num_done(tmp_path) < 31
    if number == signal.SIGINT:
        assert (process.returncode, "The same command goes on from there" in said) == (0, True), said
    wait_until_gone(process.pid)
    ended = run(*arguments)
    assert ended.code == 0, ended.stderr
    assert json.loads(ended.stdout) == study[1]
    assert (tmp_path / "quality" / "quality.json").read_bytes() == (study[0] / "quality.json").read_bytes()


def num_done(run_dir: Path) -> int:
    """Trainings that are done."""
    return len(list(run_dir.glob("quality/v320/trainings/*/*/chosen.json")))


def wait_until_gone(group: int) -> None:
    """Until no process of a group is left: they end with the first one."""
    deadline = time.monotonic() + 30
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline, "processes stayed behind"
        time.sleep(0.05)


def test_the_long_form_goes_on_from_the_short_one(tmp_path: Path) -> None:
    """Few steps and four times as many, on one vocabulary, with the same beginnings; what is trained stays trained."""
    arms = ["--arms", "default", "--seeds", "1"]
    short = json.loads(quality(tmp_path, *arms, "--json").stdout)["results"]
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("chosen.json")}
    ended = quality(tmp_path, "--long", *arms, "--json")
    assert ended.code == 0, ended.stderr
    results = json.loads(ended.stdout)["results"]
    names = {result["name"] for result in results}
    assert [result for result in results if ".many." not in result["name"]] == short
    assert {f"quality.{arm}.many.kl_nats" for arm in ("labels", "full", "default")} <= names
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    told = load_results(tmp_path / "quality" / "quality.json")
    assert [study.title.partition(" steps")[0] for study in told] == ["3", "12"]
    assert len(list(tmp_path.rglob("beginning/*/chosen.json"))) == 1, "of both"
