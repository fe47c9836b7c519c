"""train-student in an order of difficulty: what it learns from first, what it keeps, what it says and refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cache import TeacherCache
from pipeline.data.sequences import TRAIN
from pipeline.distill.batching.batches import BatchReader
from tests.stages.refusals import refuse
from tests.stages.toys import Toy, copy, status, tree
from tests.stages.trainings import STAGE, train, what_counts

HARD = ("--set", "train.data_order=hard_first", "--set", "train.curriculum_levels=4")


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[BatchReader]:
    """The readers that trainings made."""
    made: list[BatchReader] = []

    class Noted(BatchReader):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr("stages.train_student.BatchReader", Noted)
    return made


def test_the_hardest_come_first(toy: Toy, cached: Path, tmp_path: Path, readers: list[BatchReader]) -> None:
    ended = train(toy, cached, tmp_path / "run", *HARD)
    assert "the easiest sequences are never learned from" in ended.stderr
    cache = TeacherCache.open(cached)
    train_indices = np.flatnonzero(cache.sequences.split == TRAIN)
    mask_ST = cache.sequences.select(slice(None)).loss_mask[train_indices]
    entropies_ST = cache.read(train_indices)[1].entropies_T.reshape(mask_ST.shape).astype(np.float64)
    nats = dict(zip(train_indices.tolist(), (entropies_ST * mask_ST).sum(1) / mask_ST.sum(1), strict=True))
    level = len(nats) // 4
    hardest = sorted(nats.values(), reverse=True)[:level]
    order = readers[0]._order
    seen = np.concatenate([order.sequences_for_step(step) for step in range(-(-level // order.batch))])[:level]
    assert sorted((nats[index] for index in seen.tolist()), reverse=True) == pytest.approx(hardest)


def test_the_default_order_keeps_nothing_and_gives_the_same_bytes(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    train(toy, cached, tmp_path / "run", "--set", "train.data_order=shuffled")
    assert what_counts(tmp_path / "run") == what_counts(trained)
    assert not (tmp_path / "run" / "student" / "difficulty").exists()


def test_a_pause_while_difficulties_are_measured_is_one(
    toy: Toy, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["sad-pipeline", STAGE, "-c", "toy.yaml"])
    run_dir = tmp_path / "run"
    arguments = ("--set", f"cache.roots=[{cached}]", *HARD, "--time-budget", "1e-6", "--paused-exit-code", "75")
    ended = toy.run(STAGE, run_dir, *arguments)
    assert ended.code == 75
    assert "paused while difficulties were measured" in ended.stderr
    left = status(run_dir)
    assert (left["state"], left["progress"]) == ("paused", {"steps": 0, "of": 12})
    assert left["next_command"] == f"sad-pipeline {STAGE} -c toy.yaml"
    assert len(list((run_dir / "student" / "difficulty").iterdir())) == 1


def test_sealed_only_measures_what_is_sealed(
    toy: Toy, cached: Path, tmp_path: Path, readers: list[BatchReader]
) -> None:
    run_dir = copy(cached, tmp_path / "run")
    gone = sorted(run_dir.glob("cache/shards/*"))[:4]  # two shards of training sequences, with their seals
    kept = {path.name: path.read_bytes() for path in gone}
    for path in gone:
        path.unlink()
    sealed = TeacherCache.open(run_dir).sealed
    toy.ran(STAGE, run_dir, *HARD, "--use-sealed-only", "--set", "train.steps=2")
    measured = tree(run_dir / "student" / "difficulty")
    assert list(measured) == [f"{span.index:05d}.json" for span in sealed if span.split == TRAIN]
    for path in gone:  # sealed meanwhile; the training stays with what it began on
        path.write_bytes(kept[path.name])
    first = {index for step in range(20) for index in readers[0]._order.sequences_for_step(step).tolist()}
    toy.ran(STAGE, run_dir, *HARD, "--use-sealed-only", "--set", "train.steps=2")
    assert tree(run_dir / "student" / "difficulty") == measured
    assert min(first) >= TeacherCache.open(run_dir).plan.shards[2].first


def test_another_order_is_another_training(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    run_dir = copy(trained, tmp_path / "run")
    (run_dir / "student" / "model" / "config.json").unlink()
    before = tree(run_dir)
    ended = toy.run(STAGE, run_dir, "--set", f"cache.roots=[{cached}]", *HARD)
    refuse(ended, 3, "train.data_order: 'shuffled' -> 'hard_first'", "--fork-from")
    assert {name: digest for name, digest in tree(run_dir).items() if "student" in name} == {
        name: digest for name, digest in before.items() if "student" in name
    }


def test_keys_of_another_order_are_refused(toy: Toy, cached: Path, tmp_path: Path) -> None:
    ended = toy.run(STAGE, tmp_path / "run", "--set", "train.curriculum_levels=4")
    refuse(ended, 2, "curriculum_levels has no meaning for train.data_order shuffled", "easy_first")
