"""train-student with two processes that share each step: what one alone learns, whatever happens on the way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline.errors import DamagedDataError, MachineError
from tests.stages.processes import children, is_running, wait_for
from tests.stages.refusals import refuse
from tests.stages.toys import Toy, copy, flip_a_bit, start, status, temporaries, tree, wait
from tests.stages.trainings import STAGE, checkpoint, metrics, train

TWO = ["--workers", "2"]
# Three sequences a step are one for the first process and two for the other; every sum that a step has is in it.
SETTINGS = [
    f"--set=train.{key}"
    for key in (
        "steps=6", "batch_size=3", "evaluate_every=3", "checkpoint_every=1", "router=learned", "balance=true",
        "rank_weight=0.3",
    )
]  # fmt: skip
LONG = [*SETTINGS, "--set=train.steps=10000"]


@pytest.fixture(scope="module")
def straight(toy: Toy, cached: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes from its first step to its last."""
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    ended = train(toy, cached, run_dir, *SETTINGS, *TWO)
    assert "2 processes share each step (train.workers)" in ended.stderr
    return run_dir


@pytest.fixture
def under_way(toy: Toy, cached: Path, tmp_path: Path) -> Iterator[tuple[BaseProcess, Path]]:
    """Two processes that have done some steps of many."""
    run_dir = tmp_path / "run"
    arguments = toy.command(STAGE, run_dir, f"--set=cache.roots=[{cached}]", *LONG, *TWO)
    process = start(arguments, tmp_path / "log")
    log = run_dir / "student" / "metrics.jsonl"
    try:
        wait_for(lambda: log.is_file() and log.read_text().count('"train"') > 2)
        assert len(children(process)) == 1
        yield process, run_dir
    finally:
        process.kill()
        process.join()


@pytest.fixture
def frozen(toy: Toy, cached: Path, tmp_path: Path) -> Iterator[tuple[BaseProcess, int, Path]]:
    """Two processes, of which the second is stopped before it has loaded anything, and never comes."""
    run_dir = tmp_path / "run"
    process = start(toy.command(STAGE, run_dir, f"--set=cache.roots=[{cached}]", *LONG, *TWO), tmp_path / "log")
    try:
        wait_for(lambda: bool(spawned(process)))
        [other] = spawned(process)
        os.kill(other, signal.SIGSTOP)
        yield process, other, run_dir
        if is_running(other):
            os.kill(other, signal.SIGKILL)
    finally:
        process.kill()
        process.join()


def spawned(process: BaseProcess) -> list[int]:
    """Process ids of those that share its steps, from the first instant that they can be told."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [pid for pid in children(process) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return []


def steps(run_dir: Path) -> list[dict[str, Any]]:
    """The figures that are logged of steps."""
    return [
        {name: value for name, value in line.items() if isinstance(value, (int, float))}
        for line in metrics(run_dir)
        if line["kind"] == "train"
    ]


def assert_close(found: Path, expected: Path, step: int = 6) -> None:
    """The same training but for the rounding of sums."""
    for line, other in zip(steps(found), steps(expected), strict=True):
        assert line == pytest.approx(other, rel=1e-4, abs=1e-6)
    for name in ("weights", "average", "router"):
        tensors, others = (
            load_file(checkpoint(run_dir, step) / f"{name}.safetensors") for run_dir in (found, expected)
        )
        for key, values in others.items():
            np.testing.assert_allclose(tensors[key], values, rtol=1e-3, atol=1e-5, err_msg=f"{name} {key}")
    states = [json.loads((checkpoint(run, step) / "state.json").read_text())["learner"] for run in (found, expected)]
    for mean in ("magnitudes", "losses", "routes"):
        sums, other_sums = (state["loss_weights"][mean]["sums"] for state in states)
        assert sums == pytest.approx(other_sums, rel=1e-4), mean


def what_lasts(run_dir: Path) -> dict[str, str]:
    """Hashes of all that a training leaves, but for what it took."""
    files = tree(run_dir / "student").items()
    return {name: digest for name, digest in files if name != "timings.jsonl" and "step-00000005" not in name}


def test_both_read_the_shards_that_the_first_one_found(toy: Toy, cached: Path, straight: Path, tmp_path: Path) -> None:
    """One shard lies in a root without a plan, and another is short in one root and whole in the next."""
    damaged, whole = copy(cached, tmp_path / "damaged"), copy(cached, tmp_path / "whole")
    (tmp_path / "alone").mkdir()
    for name in ("00000.shard", "00000.seal.json"):
        (whole / "cache" / "shards" / name).unlink()
        (damaged / "cache" / "shards" / name).rename(tmp_path / "alone" / name)
    shard = damaged / "cache" / "shards" / "00001.shard"
    shard.write_bytes(shard.read_bytes()[:-1])
    roots = f"--set=cache.roots=[{damaged}, {tmp_path / 'alone'}, {whole}]"
    ended = toy.run(STAGE, tmp_path / "run", roots, *SETTINGS, *TWO)
    assert ended.code == 0, ended.stderr
    assert what_lasts(tmp_path / "run") == what_lasts(straight)


def test_two_learn_what_one_learns(toy: Toy, cached: Path, straight: Path, tmp_path: Path) -> None:
    train(toy, cached, tmp_path / "one", *SETTINGS)
    assert_close(straight, tmp_path / "one")
    assert status(straight)["state"] == "complete"
    assert temporaries(straight) == []


def test_resumed_it_is_the_same_to_the_bit(toy: Toy, cached: Path, straight: Path, tmp_path: Path) -> None:
    ended = train(toy, cached, tmp_path / "run", *SETTINGS, *TWO, "--time-budget", "1e-6")
    assert "paused after step 1 of 6: the time budget is nearly spent" in ended.stderr
    train(toy, cached, tmp_path / "run", *SETTINGS, *TWO)
    assert what_lasts(tmp_path / "run") == what_lasts(straight)


def test_how_many_there_are_may_change_at_every_start(toy: Toy, cached: Path, straight: Path, tmp_path: Path) -> None:
    for _ in range(2):
        train(toy, cached, tmp_path / "run", *SETTINGS, "--time-budget", "1e-6")
    train(toy, cached, tmp_path / "run", *SETTINGS, *TWO)
    assert_close(tmp_path / "run", straight)


def test_a_signal_pauses_all_of_them(under_way: tuple[BaseProcess, Path]) -> None:
    process, run_dir = under_way
    [other] = children(process)
    os.kill(other, signal.SIGINT)  # as Ctrl-C does, which reaches all: the first decides
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    assert wait(process) == 0
    left = status(run_dir)
    assert (left["state"], "SIGTERM was received" in left["message"]) == ("paused", True)
    assert checkpoint(run_dir, left["progress"]["steps"]).is_dir()
    assert (is_running(other), temporaries(run_dir)) == (False, [])


def test_a_signal_pauses_one_that_waits_for_another(
    frozen: tuple[BaseProcess, int, Path], toy: Toy, cached: Path
) -> None:
    process, other, run_dir = frozen
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    assert wait(process) == 0
    left = status(run_dir)
    assert (left["state"], left["message"]) == ("paused", "paused after step 0 of 10,000: SIGTERM was received")
    assert (is_running(other), temporaries(run_dir)) == (False, [])
    assert not list(run_dir.glob("student/checkpoints/*")), "nothing was begun"
    ended = train(toy, cached, run_dir, *LONG, *TWO, "--time-budget", "1e-6")
    assert "paused after step 1 of 10,000" in ended.stderr


def test_when_the_first_is_killed_the_other_ends(under_way: tuple[BaseProcess, Path]) -> None:
    process, _ = under_way
    [other] = children(process)
    process.kill()
    process.join()
    wait_for(lambda: not is_running(other))


def test_when_the_other_is_killed_it_is_said_and_the_next_start_goes_on(
    under_way: tuple[BaseProcess, Path], toy: Toy, cached: Path
) -> None:
    process, run_dir = under_way
    os.kill(children(process)[0], signal.SIGKILL)
    assert wait(process, 60) == MachineError.exit_code
    log = (run_dir.parent / "log").read_text(encoding="utf-8")
    assert "error: train.workers: one of 2 processes was killed" in log
    assert "Traceback" not in log
    assert (status(run_dir)["state"], temporaries(run_dir)) == ("failed", [])
    last = steps(run_dir)[-1]["step"]
    ended = train(toy, cached, run_dir, *LONG, "--time-budget", "1e-6")
    assert f"continuing after step {last - 1:,}" in ended.stderr or f"continuing after step {last:,}" in ended.stderr


def test_what_goes_wrong_in_one_is_told_as_ever(toy: Toy, cached: Path, tmp_path: Path) -> None:
    """Every training shard is damaged, so that each process finds one; whoever is first is heard."""
    cache = copy(cached / "cache", tmp_path / "cache")
    for path in sorted(cache.glob("shards/*.shard")):
        flip_a_bit(path)
    options = [f"--set=cache.roots=[{cache}]", *SETTINGS, *TWO]
    refuse(toy.run(STAGE, tmp_path / "run", *options), DamagedDataError.exit_code, ".shard")


def test_more_than_a_step_has_sequences_is_refused(toy: Toy, cached: Path, tmp_path: Path) -> None:
    options = [f"--set=cache.roots=[{cached}]", *SETTINGS, "--workers", "4"]
    refuse(toy.run(STAGE, tmp_path / "run", *options), 2, "expected at most 3, the sequences of a step", "found 4")
