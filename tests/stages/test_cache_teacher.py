"""cache-teacher through the real command: finish, do nothing, be killed, pause, go on elsewhere."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.cache import TeacherCache
from pipeline.cache.precisions import PRECISIONS
from pipeline.models.device import environment
from stages import cache_teacher
from tests import tiny
from tests.stages.processes import wait_for, wait_for_seals
from tests.stages.toys import REPOSITORY, Toy, copy, sealed, stamps, start, status, temporaries, tree, wait

STAGE = "cache-teacher"


# ------------------------------------------------------------------ what it leaves


def test_leaves_a_complete_cache_and_says_so(cached: Path) -> None:
    left = status(cached)
    assert (left["stage"], left["state"], left["next_command"]) == (STAGE, "complete", None)
    assert left["progress"]["shards"] == left["progress"]["of"] == sealed(cached) == 9
    assert TeacherCache.open(cached).complete
    assert temporaries(cached) == []


def test_records_are_what_the_model_says(cached: Path, toy: Toy) -> None:
    """One sequence against a direct float32 forward pass, document by document."""
    with TeacherCache.open(cached) as cache:
        sequence = cache[3]
    starts = np.flatnonzero(sequence.document_starts[:-1]).tolist()
    model = tiny.make_model()
    for begin, end in zip(starts, [*starts[1:], 32], strict=True):
        ids = torch.from_numpy(sequence.input_ids[begin:end].astype(np.int64))
        with torch.no_grad():
            logprobs_TV = model(ids[None]).logits[0, :, :259].double().log_softmax(dim=1)
        for t in range(begin, end):
            if not sequence.loss_mask_T[t]:
                continue
            records = sequence.records.rows(slice(t, t + 1))
            direct_K = logprobs_TV[t - begin, torch.from_numpy(records.ids_TK[0].astype(np.int64))].numpy()
            assert (np.abs(records.logprobs_TK[0] - direct_K) <= PRECISIONS["fine"].error_nats(direct_K) + 1e-5).all()
            label = logprobs_TV[t - begin, int(sequence.input_ids[t + 1])].item()
            assert records.label_logprobs_T[0] == pytest.approx(label, abs=4e-3)
            kept = np.sort(direct_K)[0]
            assert kept >= logprobs_TV[t - begin].topk(16).values[-1].item() - 1e-5


def test_second_run_touches_nothing_in_the_cache(cached: Path, toy: Toy) -> None:
    before, times = tree(cached / "cache"), stamps(cached / "cache")
    ended = toy.ran(STAGE, cached)
    assert "all 9 shards sealed" in ended.stderr
    assert tree(cached / "cache") == before
    assert stamps(cached / "cache") == times


def test_shards_of_another_library_are_noted_before_more_are_made(
    cached: Path, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = copy(cached, tmp_path / "run")
    for path in run_dir.glob("cache/shards/00006.*"):
        path.unlink()
    before = environment(torch.device("cpu"))["torch"]
    monkeypatch.setattr(cache_teacher, "environment", lambda device: environment(device) | {"torch": "99.0"})
    for again in (False, True):
        ended = toy.ran(STAGE, run_dir)
        assert ("this machine has torch 99.0: shards made here agree" in ended.stderr) is not again
    with TeacherCache.open(run_dir) as cache:
        assert {shard.seal.environment["torch"] for shard in cache.shards.values()} == {before, "99.0"}


# ------------------------------------------------------------------ killed


def kill_and_finish(toy: Toy, run_dir: Path, operation: int) -> bool:
    """Die before one operation, look at what is there, run again to the end; returns whether it died."""
    died = wait(start(toy.command(STAGE, run_dir), run_dir.with_suffix(".log"), operation)) == -signal.SIGKILL
    if (run_dir / "cache" / "plan.json").is_file():
        cache = TeacherCache.open(run_dir)
        with cache:
            for span in cache.sealed:
                cache.read(np.arange(span.first, span.stop))
    toy.ran(STAGE, run_dir)
    assert temporaries(run_dir) == []
    return died


@pytest.mark.slow
@pytest.mark.parametrize("operation", [3, 20, 33, 46])
def test_killed_before_an_operation_and_run_again_gives_the_same_bytes(
    operation: int, toy: Toy, cached: Path, tmp_path: Path
) -> None:
    assert kill_and_finish(toy, tmp_path / "run", operation)
    assert tree(tmp_path / "run" / "cache") == tree(cached / "cache")


@pytest.mark.slow
def test_killed_before_any_of_many_operations(toy: Toy, cached: Path, tmp_path: Path) -> None:
    expected, deaths = tree(cached / "cache"), 0
    for operation in range(0, 200, 5):
        died = kill_and_finish(toy, tmp_path / f"run-{operation}", operation)
        assert tree(tmp_path / f"run-{operation}" / "cache") == expected, operation
        deaths += died
        if not died:
            break
    assert deaths > 12


@pytest.mark.slow
def test_real_command_killed_at_three_moments(toy: Toy, cached: Path, tmp_path: Path) -> None:
    """The command as a user types it, in an interpreter of its own, killed from outside."""
    for seals in (0, 2, 6):
        run_dir = tmp_path / f"run-{seals}"
        command = [sys.executable, "-m", "stages", *toy.command(STAGE, run_dir)]
        process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
        if seals:
            wait_for_seals(run_dir, seals)
        else:
            while not (run_dir / "status.json").is_file():
                time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert sealed(run_dir) < 9
        assert status(run_dir)["state"] == "running"
        toy.ran(STAGE, run_dir)
        assert tree(run_dir / "cache") == tree(cached / "cache")
        assert temporaries(run_dir) == []


# ------------------------------------------------------------------ paused


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_pauses_cleanly(number: signal.Signals, toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir, options = tmp_path / "run", ["--paused-exit-code", "75"] if number == signal.SIGTERM else []
    arguments = toy.command(STAGE, run_dir, *options)
    process = start(arguments, tmp_path / "log")
    wait_for_seals(run_dir, 2)
    assert process.pid is not None
    os.kill(process.pid, number)
    assert wait(process) == (75 if options else 0)
    left, log = status(run_dir), (tmp_path / "log").read_text(encoding="utf-8")
    assert left["state"] == "paused"
    assert left["next_command"] == " ".join(["sad-pipeline", *arguments])
    assert number.name in left["message"]
    assert f"To continue: {left['next_command']}" in log
    assert 2 <= left["progress"]["shards"] == sealed(run_dir) < 9
    assert temporaries(run_dir) == []
    toy.ran(STAGE, run_dir)
    assert tree(run_dir / "cache") == tree(cached / "cache")


def test_a_signal_before_there_is_a_plan_pauses_too(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = toy.command(STAGE, run_dir)
    process = start(arguments, tmp_path / "log")
    wait_for((run_dir / "status.json").is_file)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    assert wait(process) == 0
    left = status(run_dir)
    assert (left["state"], left["message"]) == ("paused", "paused before there was a plan: SIGINT was received")
    assert left["next_command"] == " ".join(["sad-pipeline", *arguments])
    assert not (run_dir / "cache" / "plan.json").exists()
    toy.ran(STAGE, run_dir)
    assert tree(run_dir / "cache") == tree(cached / "cache")


def test_a_spent_time_budget_pauses(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    ended = toy.run(STAGE, run_dir, "--time-budget", "1e-6", "--paused-exit-code", "9")
    assert ended.code == 9
    assert "the time budget is spent" in ended.stderr
    assert status(run_dir)["state"] == "paused"
    assert sealed(run_dir) == 0
    toy.ran(STAGE, run_dir, "--time-budget", "100")
    assert tree(run_dir / "cache") == tree(cached / "cache")


def test_what_is_sealed_first_is_enough_to_begin_a_student_on(toy: Toy, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(toy.command(STAGE, run_dir), tmp_path / "log")
    wait_for_seals(run_dir, 5)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    assert wait(process) == 0
    assert sealed(run_dir) < 9
    assert status(run_dir)["state"] == "paused"
    toy.ran("train-student", run_dir, "--use-sealed-only", "--set", "train.steps=2")
    assert (run_dir / "student" / "model" / "model.safetensors").is_file()


# ------------------------------------------------------------------ several places


def test_goes_on_from_a_read_only_root(toy: Toy, cached: Path, tmp_path: Path) -> None:
    """The first session's output is mounted somewhere read-only; a second session elsewhere does the rest."""
    first, second = tmp_path / "mounted" / "deep" / "first", tmp_path / "second"
    copy(cached, first)
    for index in (1, 4, 8):
        (first / "cache" / "shards" / f"{index:05d}.seal.json").unlink()
        (first / "cache" / "shards" / f"{index:05d}.shard").unlink()
    for path in [*first.rglob("*"), first]:
        path.chmod(stat.S_IRUSR | (stat.S_IXUSR if path.is_dir() else 0))
    before, times = tree(first), stamps(first)

    toy.ran(STAGE, second, "--set", f"cache.roots=[{tmp_path / 'mounted'}]")
    assert (tree(first), stamps(first)) == (before, times)
    made = tree(second / "cache")
    assert sorted(name for name in made if name.endswith(".shard")) == [f"shards/0000{i}.shard" for i in (1, 4, 8)]
    expected = tree(cached / "cache")
    assert {name: expected[name] for name in made} == made

    with TeacherCache.open(second, tmp_path / "mounted") as both, TeacherCache.open(cached) as one:
        everything = np.arange(len(one))
        np.testing.assert_array_equal(both.read(everything)[1].logprobs_TK, one.read(everything)[1].logprobs_TK)
    for path in [first, *first.rglob("*")]:
        path.chmod(0o755)
