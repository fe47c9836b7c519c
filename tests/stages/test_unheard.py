"""Commands whose words reach nobody: what is said is never worth a run, and no result is lost in silence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import StorageError
from tests.stages.processes import wait_for
from tests.stages.toys import REPOSITORY, Toy, status, tree
from tests.stages.trainings import STAGE, checkpoint, train

FULL = "/dev/full"
pytestmark = pytest.mark.slow


def start(*arguments: str, stdout: str = os.devnull, stderr: str = FULL) -> subprocess.Popen[bytes]:
    """The command in a new interpreter, as a user's shell starts it with these streams."""
    with open(stdout, "wb") as out, open(stderr, "wb") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "stages", *arguments],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )


def test_a_training_is_done_though_nothing_can_be_said(toy: Toy, cached: Path, tmp_path: Path) -> None:
    arguments = toy.command(STAGE, tmp_path / "run", f"--set=cache.roots=[{cached}]")
    assert start(*arguments).wait(300) == 0
    assert status(tmp_path / "run")["state"] == "complete"
    train(toy, cached, tmp_path / "heard")
    model = "student/model/model.safetensors"
    assert tree(tmp_path / "run")[model] == tree(tmp_path / "heard")[model]
    assert start(*toy.command("eval", tmp_path / "run", f"--set=cache.roots=[{cached}]")).wait(300) == 0
    assert status(tmp_path / "run")["stages"]["eval"]["state"] == "complete"


def test_a_signal_pauses_though_nothing_can_be_said(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    options = [f"--set=cache.roots=[{cached}]", "--set=train.steps=10000", "--paused-exit-code=75"]
    process = start(*toy.command(STAGE, run_dir, *options))
    try:
        log = run_dir / "student" / "metrics.jsonl"
        wait_for(lambda: log.is_file() and log.read_text().count('"train"') > 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 75
    finally:
        process.kill()
    left = status(run_dir)
    assert (left["state"], "SIGTERM was received" in left["message"]) == ("paused", True)
    assert checkpoint(run_dir, left["progress"]["steps"]).is_dir()


def test_an_error_that_cannot_be_said_keeps_its_exit_code(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file stands where a folder is needed")
    assert start(*toy.command("cache-teacher", tmp_path / "run")).wait(300) == StorageError.exit_code


@pytest.mark.parametrize("stderr", [os.devnull, FULL])
def test_a_result_that_cannot_be_written_is_no_success(stderr: str, cached: Path, tmp_path: Path) -> None:
    arguments = ("verify", str(cached), "--json")
    assert start(*arguments, stdout=str(tmp_path / "result"), stderr=stderr).wait(300) == 0
    assert (tmp_path / "result").read_text(encoding="utf-8") == "[]\n"
    assert start(*arguments, stdout=FULL, stderr=stderr).wait(300) != 0
