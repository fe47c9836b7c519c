"""cache-teacher with two teachers in processes of their own: the same bytes, whatever happens on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.cache import TeacherCache
from pipeline.errors import MachineError
from pipeline.models.sharing import count_busy_cards, count_workers
from pipeline.output_limit import folder_bytes
from tests.stages.processes import children, is_running, wait_for, wait_for_seals
from tests.stages.refusals import nothing_half_written, refuse
from tests.stages.toys import Toy, copy, limit, sealed, start, status, temporaries, tree, wait

STAGE = "cache-teacher"
SMALL = [f"--set=cache.{key}" for key in ("batch_size=1", "shard_positions=64")]
"""Many shards, so that there is time to do something in the middle"""
TWO = ["--workers", "2"]


@pytest.fixture(scope="module")
def whole(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process with many shards, complete."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    toy.ran(STAGE, run_dir, *SMALL)
    return run_dir


@pytest.fixture
def half(toy: Toy, tmp_path: Path) -> Iterator[tuple[BaseProcess, Path]]:
    """Two processes that have sealed some shards and are at work on others."""
    process = start(toy.command(STAGE, tmp_path / "run", *SMALL, *TWO), tmp_path / "log")
    wait_for_seals(tmp_path / "run", 4)
    yield process, tmp_path / "run"
    process.kill()
    process.join()


def test_the_bytes_are_those_of_one_process(toy: Toy, cached: Path, tmp_path: Path) -> None:
    ended = toy.ran(STAGE, tmp_path / "run", *TWO)
    assert "9 of 9 shards to do, 9,760 of 9,760 tokens, 2 at a time" in ended.stderr
    assert "cache-teacher: 9,760 tokens in " in ended.stderr
    assert tree(tmp_path / "run" / "cache") == tree(cached / "cache")
    assert status(tmp_path / "run")["state"] == "complete"


def test_a_signal_pauses_all_of_them(half: tuple[BaseProcess, Path], toy: Toy, whole: Path) -> None:
    process, run_dir = half
    teachers = children(process)
    assert len(teachers) == 2
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    assert wait(process) == 0
    left = status(run_dir)
    assert (left["state"], "SIGTERM was received" in left["message"]) == ("paused", True)
    assert 4 <= left["progress"]["shards"] == sealed(run_dir) < sealed(whole)
    assert (temporaries(run_dir), [pid for pid in teachers if is_running(pid)]) == ([], [])
    toy.ran(STAGE, run_dir, *SMALL, *TWO)
    assert tree(run_dir / "cache") == tree(whole / "cache")


def test_when_the_first_is_killed_the_others_end(half: tuple[BaseProcess, Path], toy: Toy, whole: Path) -> None:
    process, run_dir = half
    teachers = children(process)
    process.kill()
    process.join()
    wait_for(lambda: not any(is_running(pid) for pid in teachers))
    assert sealed(run_dir) < sealed(whole)
    toy.ran(STAGE, run_dir, *SMALL)  # with one
    assert tree(run_dir / "cache") == tree(whole / "cache")


def test_when_another_is_killed_it_is_said_and_what_is_sealed_stays(
    half: tuple[BaseProcess, Path], toy: Toy, whole: Path
) -> None:
    process, run_dir = half
    os.kill(children(process)[-1], signal.SIGKILL)
    assert wait(process) == MachineError.exit_code
    log = (run_dir.parent / "log").read_text(encoding="utf-8")
    assert "error: teacher.workers: one of 2 processes was killed" in log
    assert "Traceback" not in log
    assert 4 <= sealed(run_dir) < sealed(whole)
    toy.ran(STAGE, run_dir, *SMALL, *TWO)
    assert tree(run_dir / "cache") == tree(whole / "cache")


def test_what_goes_wrong_in_one_is_told_as_ever(toy: Toy, cached: Path, tmp_path: Path) -> None:
    """A teacher that overflows at one id, of those whose first place is late: planned in good faith."""
    with TeacherCache.open(cached) as cache:
        ids_ST = np.stack([cache[index].input_ids for index in range(cache.plan.num_sequences)])
    late = max(np.unique(ids_ST).tolist(), key=lambda token: int(np.argmax((ids_ST == token).any(axis=1))))
    teacher = copy(toy.teacher, tmp_path / "teacher")
    weights = load_file(teacher / "model.safetensors")
    weights["model.embed_tokens.weight"][late] = torch.inf
    save_file(weights, teacher / "model.safetensors", {"format": "pt"})
    for name, workers in (("one", []), ("two", TWO)):
        refuse(toy.run(STAGE, tmp_path / name, f"--set=teacher.model={teacher}", *workers), 1, "finite", "(sequence ")
        nothing_half_written(tmp_path / name)


def test_room_is_asked_for_what_is_at_work_too(toy: Toy, cached: Path, tmp_path: Path) -> None:
    """Room for one shard is not given to two."""
    run_dir = copy(cached, tmp_path / "run")
    largest = max(path.stat().st_size for path in run_dir.glob("cache/shards/*.shard"))
    for path in sorted(run_dir.glob("cache/shards/*"))[:8]:
        path.unlink()
    before = sealed(run_dir)
    ended = toy.ran(STAGE, run_dir, *limit(folder_bytes(run_dir) + 1.4 * (1.25 * largest + 16_384)), *TWO)
    assert "the limit of session.max_output_gb is reached" in ended.stderr
    assert (before, status(run_dir)["state"], sealed(run_dir)) == (5, "paused", 6)
    assert temporaries(run_dir) == []
    toy.ran(STAGE, run_dir, *TWO)
    assert tree(run_dir / "cache") == tree(cached / "cache")


@pytest.mark.parametrize(
    ("wanted", "device", "cards", "workers", "faster"),
    [
        (None, "auto", 2, 2, 2),
        (None, "auto", 0, 1, 1),
        (None, "cpu", 2, 1, 1),
        (1, "cuda", 2, 1, 1),
        (3, "cpu", 2, 3, 1),
    ],
)
def test_one_a_card(
    wanted: int | None, device: Any, cards: int, workers: int, faster: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (7, 5))
    assert (count_workers(wanted, device), count_busy_cards(wanted, device)) == (workers, faster)
    if cards and device != "cpu":
        with pytest.raises(
            MachineError, match=r"workers: expected at most 2, the cards of this machine, found 3: .* to 2 or less"
        ):
            count_workers(3, device)


def test_too_many_processes_are_refused_before_anything_is_planned(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.models.sharing._count_cards", lambda device: 2)
    ended = toy.run("cache-teacher", tmp_path / "run", "--workers", "3")
    assert (ended.code, "expected at most 2, the cards of this machine, found 3" in ended.stderr) == (5, True), (
        ended.stderr
    )
    assert not (tmp_path / "run" / "cache").exists()


def test_cards_of_another_capability_are_left_alone_unless_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: [(8, 6), (8, 6), (6, 1), (8, 6)][number])
    assert count_workers(None, "auto") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "2 of 4 cards are used: card 2 has capability 6.1 and the first one 8.6." in said
    assert "To use all of them: teacher.workers: 4" in said
    assert count_workers(4, "auto") == 4
