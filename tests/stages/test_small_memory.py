"""train-student where a card gets full: its pieces get smaller, are said, are checkpointed, and resume exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.distill import validation as validation_module
from pipeline.distill.guards.memory_guard import MemoryGuard
from tests.stages.toys import Toy, status, tree
from tests.stages.trainings import STAGE, checkpoint, metrics, train, what_counts

SIZES = ["--set", "train.chunk_positions=512", "--set", "train.checkpoint_every=5"]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card of 100 bytes on which 512 positions and 4 sequences, or 256 and one, are too many at once."""
    real = MemoryGuard.__init__

    def with_probe(self: MemoryGuard, *args: Any) -> None:
        real(self, *args)
        self._probe = lambda: (81 + self.chunk_positions // 64 + self.rows(), 100)

    monkeypatch.setattr(MemoryGuard, "__init__", with_probe)


def decisions(run_dir: Path, step: int) -> dict[str, int]:
    state = json.loads((checkpoint(run_dir, step) / "state.json").read_text())
    found: dict[str, int] = state["learner"]["memory"]
    return {name: found[name] for name in ("chunk_positions", "parts")}


@pytest.mark.usefixtures("card")
def test_pieces_get_smaller_and_a_resume_goes_on_with_them(toy: Toy, cached: Path, tmp_path: Path) -> None:
    ended = train(toy, cached, tmp_path / "straight", *SIZES)
    said = [line for line in ended.stderr.splitlines() if "train.memory_guard" in line]
    assert [line.rpartition("from here on ")[2] for line in said] == [
        "the output matrix takes 256 positions at once instead of 512",
        "a step is 2 passes of 2 sequences instead of 4, its batch stays the same",
        "a step is 4 passes of 1 sequences instead of 2, its batch stays the same",
        "the output matrix takes 128 positions at once instead of 256",
    ]
    assert ended.stderr.count("93% of the card's memory is in use, above 90%") == 1, "of the step, before it was cut"
    assert decisions(tmp_path / "straight", 12) == {"chunk_positions": 128, "parts": 4}
    timed = [
        json.loads(line) for line in (tmp_path / "straight" / "student" / "timings.jsonl").read_text().splitlines()
    ]
    assert [line["memory_share"] for line in timed] == [0.93, 0.89, 0.87, 0.86] + [0.84] * 8

    for step in range(1, 13):
        again = train(toy, cached, tmp_path / "stopped", *SIZES, "--time-budget", "1e-6")
        assert ("from here on" in again.stderr) == (step <= 4), "what was decided is not decided again"
    assert status(tmp_path / "stopped")["state"] == "complete"
    assert what_counts(tmp_path / "stopped") == what_counts(tmp_path / "straight")


@pytest.mark.usefixtures("card")
def test_what_is_learned_is_the_same_but_for_rounding(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    train(toy, cached, tmp_path / "run", *SIZES)
    for found, expected in zip(metrics(tmp_path / "run"), metrics(trained), strict=True):
        assert (found["step"], found["kind"]) == (expected["step"], expected["kind"])
        assert found["ce"] == pytest.approx(expected["ce"], rel=1e-4)


@pytest.mark.usefixtures("card")
def test_a_fork_decides_for_itself(toy: Toy, cached: Path, tmp_path: Path) -> None:
    train(toy, cached, tmp_path / "run", *SIZES)
    options = [*SIZES, "--set", "train.batch_size=2", "--set", "train.steps=14", "--fork-from", str(tmp_path / "run")]
    train(toy, cached, tmp_path / "fork", *options)
    assert decisions(tmp_path / "fork", 12) == {"chunk_positions": 512, "parts": 1}
    assert decisions(tmp_path / "fork", 14) == {"chunk_positions": 256, "parts": 2}


@pytest.mark.parametrize("fits", [32, 0], ids=["one sequence a pass", "nothing"])
def test_a_validation_that_runs_out_is_done_again_in_smaller_pieces(
    fits: int, toy: Toy, cached: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training has room, validation only for one sequence at once, or for none: then it ends in words."""
    real = validation_module.distillation_loss

    def loss(hidden_ND: Any, *args: Any, **kwargs: Any) -> Any:
        if len(hidden_ND) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(hidden_ND, *args, **kwargs)

    monkeypatch.setattr(validation_module, "distillation_loss", loss)
    options = ["--set", f"cache.roots=[{cached}]", "--set", "train.chunk_positions=128"]
    ended = toy.run(STAGE, tmp_path / "run", *options)
    assert "the card's memory ran out in this validation, which is done again: from here on" in ended.stderr
    if fits == 0:
        assert ended.code == 5
        assert "with 1 sequence a pass and 64 positions" in ended.stderr
        return
    assert ended.code == 0
    assert decisions(tmp_path / "run", 12) == {"chunk_positions": 128, "parts": 4}
    for found, expected in zip(metrics(tmp_path / "run"), metrics(trained), strict=True):
        assert found["ce"] == pytest.approx(expected["ce"], rel=1e-4)


def test_an_average_in_host_memory_is_the_same_average(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    train(toy, cached, tmp_path / "run", "--set", "train.ema_device=host", "--time-budget", "1e-6")
    train(toy, cached, tmp_path / "run")  # a free key: it may change between two starts
    assert what_counts(tmp_path / "run") == what_counts(trained)
    names = {name for name in tree(tmp_path / "run" / "student") if name.endswith("average.safetensors")}
    assert names


def test_what_saves_memory_may_be_set_when_it_runs_short(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    train(toy, cached, tmp_path / "run", "--time-budget", "1e-6")
    train(toy, cached, tmp_path / "run", "--set", "train.gradient_checkpointing=true", "--time-budget", "1e-6")
    train(toy, cached, tmp_path / "run")
    assert what_counts(tmp_path / "run") == what_counts(trained)
    train(toy, cached, tmp_path / "small", "--time-budget", "1e-6")
    train(toy, cached, tmp_path / "small", "--set", "train.chunk_positions=64")
    assert decisions(tmp_path / "small", 12) == {"chunk_positions": 64, "parts": 1}


@pytest.mark.parametrize(
    "student",
    ["student.seed=0", "student.config={model_type: gpt2, n_embd: 16, n_layer: 2, n_head: 2, n_positions: 64}"],
    ids=["llama", "gpt2, with dropout"],
)
def test_activations_that_are_made_again_are_the_same(student: str, toy: Toy, cached: Path, tmp_path: Path) -> None:
    options = ["--set", student, "--set", "train.steps=4"]
    train(toy, cached, tmp_path / "kept", *options)
    train(toy, cached, tmp_path / "again", *options, "--set", "train.gradient_checkpointing=true")
    assert metrics(tmp_path / "again") == metrics(tmp_path / "kept")
