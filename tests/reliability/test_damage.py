"""Damage: whatever happens to the bytes of a run, reading gives exactly the right data or a typed error.

Of a cache, `verify` names the file, `repair` takes out just the shards that are damaged, and `cache-teacher` computes
those again, to the same bytes. A training goes on from its last whole checkpoint, to the identical end. Of a student
that was exported `verify` names the file, and `train-student` exports it again.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.distill.keeping import checkpoint
from tests.reliability import damaged_cache, damaged_student, damaged_training
from tests.reliability.damaging import Place, Victim
from tests.reliability.one_point import alone, chunks, point
from tests.reliability.tally import LONG, Tally
from tests.stages.toys import Toy, copy, stamps, tree

SHARE_COMPUTED_AGAIN, SHARE_TRAINED, SHARE_EVALUATED = 0.1, 0.03, 0.03  # of the points of a cache
SHARE_MEASURED, SHARE_RESUMED = 0.15, 0.2  # of those of a training
SHARE_EXPORTED = 0.3  # of those of a student
PACE = {"student/timings.jsonl"}
TYPED = {2, 3, 4, 6}


@dataclass(frozen=True, slots=True)
class Caches:
    """A cache to damage, what it gives while it is whole, and an older one with files of the same names."""

    toy: Toy
    victim: Victim
    right: dict[str, Any]
    places: list[Place]

    @property
    def cache(self) -> Path:
        """The damaged one."""
        return self.victim.root / "cache"


@pytest.fixture(scope="module")
def caches(toy: Toy, cached: Path, memory: Path) -> Caches:
    """Made once; healed after every point."""
    folder = memory / "caches"
    folder.mkdir()
    toy.ran("cache-teacher", folder / "stale", "--set", "cache.seed=1", "--set", "data.seed=1")
    run_dir = copy(cached, folder / "victim")
    toy.ran("train-student", run_dir)
    toy.ran("eval", run_dir)
    victim = Victim(run_dir)
    right = damaged_cache.everything(cached / "cache")
    places = damaged_cache.places(cached / "cache", folder / "stale" / "cache")
    return Caches(toy, victim, right, places)


@pytest.mark.parametrize("numbers", chunks(380, 3800, of_short=6, of_long=20), ids=lambda n: f"{n[0]}-{n[-1]}")
def test_cache(caches: Caches, numbers: range, tally: Tally) -> None:
    """Any harm to any file of a cache."""
    for number in numbers:
        place = caches.places[number % len(caches.places)]
        with point("damage", number, place.name) as chance:
            try:
                harmed = place.harm(caches.cache, chance)
                assert caches.victim.changed(), "nothing was harmed"
                refused = damaged_cache.check_reading(caches.cache, caches.right)
                problems = damaged_cache.check_verify(caches.cache, place, harmed, refused)
                if chance.random() < SHARE_EVALUATED:
                    _evaluate(caches, place, harmed)
                if chance.random() < SHARE_TRAINED:
                    _train(caches)
                removed = damaged_cache.check_repair(caches.cache, place, harmed, problems)
                first_of_its_kind = LONG and number < len(caches.places)
                if first_of_its_kind or chance.random() < SHARE_COMPUTED_AGAIN:
                    _compute_again(caches, removed)
            finally:
                caches.victim.heal()
        tally.point(place.name)
    assert alone() or len(tally.operations) >= min(len(numbers), len(caches.places))


def _evaluate(caches: Caches, place: Place, harmed: list[str]) -> None:
    """eval finds the same figures, of fewer sequences where a shard counts as absent; or says why not."""
    path = caches.victim.root / "eval" / "eval.json"
    ended = caches.toy.run("eval", caches.victim.root)
    assert ended.code in TYPED | {0}, ended.stderr
    right, found = _figures(caches.victim.whole[path]), _figures(path.read_bytes())
    of_another_cache = place.name.startswith(("stale seal", "stale shard with", "stale shards"))  # they count as absent
    if of_another_cache or any(damaged_cache.absent(caches.cache, name) for name in harmed):
        assert found == right or found["data"] != right["data"]
    else:
        assert found == right


def _train(caches: Caches) -> None:
    """train-student learns what it learns from a whole cache, or says why not and leaves no student."""
    student = caches.victim.root / "student"
    shutil.rmtree(student)
    ended = caches.toy.run("train-student", caches.victim.root)
    assert ended.code in TYPED | {0}, ended.stderr
    if ended.code == 0:
        assert not {name for name in caches.victim.changed() if name.startswith("student/")} - PACE
    else:
        assert not (student / "model").exists()


def _compute_again(caches: Caches, removed: set[str] | None) -> None:
    """cache-teacher makes good what was taken out, and touches no other shard; or refuses, and touches none."""
    before, held = stamps(caches.cache / "shards"), tree(caches.cache)
    ended = caches.toy.run("cache-teacher", caches.victim.root)
    if removed is None:
        assert ended.code in TYPED, ended.stderr
        assert tree(caches.cache) == held
        return
    assert ended.code == 0, ended.stderr
    damaged_left = {name for name in caches.victim.changed() if name.startswith(("cache/shards/0000", "cache/seq"))}
    assert not damaged_left - {"cache/shards/00000.shard.bak"}, damaged_left
    after = stamps(caches.cache / "shards")
    again = {name[:5] for name in after if name[:1] == "0" and after[name] != before.get(name)}
    assert again <= removed | {name[:5] for name in after if name not in before}, again


# ------------------------------------------------------------------ checkpoints


@dataclass(frozen=True, slots=True)
class Trainings:
    """A training stopped after step 8, its end, and what eval says of it after each of its checkpoints."""

    toy: Toy
    victim: Victim
    more: tuple[str, ...]
    places: list[Place]
    end: dict[str, str]
    figures: dict[int, dict[str, Any]]

    @property
    def checkpoints(self) -> Path:
        """What is damaged."""
        return self.victim.root / "student" / "checkpoints"


@pytest.fixture(scope="module")
def trainings(toy: Toy, cached: Path, trained: Path, memory: Path) -> Trainings:
    """Made once; healed after every point."""
    folder, more = memory / "trainings", ("--set", f"cache.roots=[{cached}]")
    run_dir, other = folder / "run", folder / "other"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "KEPT", 3)  # the one before the newest two is there as well
        toy.ran("train-student", run_dir, *more)
        toy.ran("train-student", other, *more, "--set", "train.seed=1")
    figures = {}
    student = run_dir / "student"
    for name in ("checkpoints/step-00000012", "checkpoints/best-00000012", "model"):
        shutil.rmtree(student / name)
    for step, spare in ((8, "none"), (4, damaged_training.NEWEST)):
        kept = copy(run_dir, folder / "kept")
        shutil.rmtree(student / "checkpoints" / spare, ignore_errors=True)
        toy.ran("eval", run_dir, *more)
        figures[step] = _figures((run_dir / "eval" / "eval.json").read_bytes())
        shutil.rmtree(run_dir)
        kept.rename(run_dir)
    checkpoints = student / "checkpoints"
    places = damaged_training.places(checkpoints, other / "student" / "checkpoints")
    return Trainings(toy, Victim(run_dir), more, places, tree(trained / "student"), figures)


@pytest.mark.parametrize("numbers", chunks(120, 1200, of_short=4, of_long=12), ids=lambda n: f"{n[0]}-{n[-1]}")
def test_checkpoints(trainings: Trainings, numbers: range, tally: Tally) -> None:
    """Any harm to any file of a checkpoint."""
    victim, checkpoints = trainings.victim, trainings.checkpoints
    for number in numbers:
        place = trainings.places[(number * 7) % len(trainings.places)]
        with point("damage", number, place.name) as chance:
            try:
                harmed = place.harm(checkpoints, chance)
                assert victim.changed() or place.name.startswith("missing"), "nothing was harmed"
                step = damaged_training.check_newest(victim, checkpoints, place)
                if chance.random() < SHARE_MEASURED:
                    _measure(trainings, place, step)
                if chance.random() < SHARE_RESUMED:
                    _resume(trainings, place, harmed)
            finally:
                victim.heal()
        tally.point(place.name)
    assert alone() or len(tally.operations) >= min(len(numbers), len(trainings.places))


def _measure(trainings: Trainings, place: Place, step: int | None) -> None:
    """eval measures the newest whole checkpoint, or says why it cannot."""
    ended = trainings.toy.run("eval", trainings.victim.root, *trainings.more)
    if step is None:
        assert ended.code == 6, ended.stderr
    elif place.name != "checkpoint of another training":
        assert ended.code == 0, ended.stderr
        found = _figures((trainings.victim.root / "eval" / "eval.json").read_bytes())
        assert _nameless(found) == _nameless(trainings.figures[step])


def _nameless(figures: dict[str, Any]) -> str:
    """Without the name of the folder that was measured: swapped ones have each other's."""
    text = json.dumps(figures)
    return text.replace(damaged_training.OLDER, "").replace(damaged_training.NEWEST, "")


def _resume(trainings: Trainings, place: Place, harmed: list[str]) -> None:
    """train-student names what it passes over, and comes to the same end; another training is refused."""
    before, checkpoints = trainings.victim.changed(), trainings.checkpoints
    harmless = {name for name in harmed if damaged_training.says_the_same(trainings.victim, checkpoints, name)}
    ended = trainings.toy.run("train-student", trainings.victim.root, *trainings.more)
    if place.name == "checkpoint of another training":
        assert ended.code == 3, ended.stderr
        assert trainings.victim.changed() - {"status.json", ".lock"} == before - {"status.json", ".lock"}
        return
    assert ended.code == 0, ended.stderr
    end = tree(trainings.victim.root / "student")
    lost = {name for name in trainings.end if name.startswith(f"checkpoints/{damaged_training.BEST}")}
    spared = (
        {"timings.jsonl"}
        | {f"checkpoints/{name}" for name in harmless}
        | (lost if "best" in place.name or place.name == "missing checkpoint" else set())
    )
    assert not {name for name in trainings.end if end.get(name) != trainings.end[name]} - spared
    for name in harmed:
        if damaged_training.NEWEST in name and not place.name.startswith("missing COMMIT"):
            assert name.partition("/")[0] in ended.stderr, f"{name} was passed over without a word"


# ------------------------------------------------------------------ the student


@pytest.fixture(scope="module")
def student(trained: Path, memory: Path) -> Victim:
    """A training that came to its end; healed after every point."""
    return Victim(copy(trained, memory / "student" / "run"))


@pytest.mark.parametrize("numbers", chunks(60, 600, of_short=2, of_long=6), ids=lambda n: f"{n[0]}-{n[-1]}")
def test_student(student: Victim, toy: Toy, cached: Path, numbers: range, tally: Tally) -> None:
    """Any harm to any file of an exported student, and to the log."""
    places = damaged_student.places(student.root / "student")
    for number in numbers:
        place = places[(number * 7) % len(places)]
        with point("damage", number, place.name) as chance:
            try:
                harmed = place.harm(student.root / "student", chance)
                assert student.changed(), "nothing was harmed"
                damaged_student.check_verify(student, place, harmed, cached)
                if chance.random() < SHARE_EXPORTED:
                    toy.ran("train-student", student.root, "--set", f"cache.roots=[{cached}]")
                    damaged_student.check_made_good(student, place)
            finally:
                student.heal()
        tally.point(place.name)
    assert alone() or len(tally.operations) >= min(len(numbers), len(places)) // 2


def _figures(content: bytes) -> dict[str, Any]:
    """eval.json without the pace of this machine, and the digest that it has a part in."""
    found: dict[str, Any] = json.loads(content)
    del found["digest"]
    for row in found["rows"]:
        del row["peak_memory_bytes"], row["tokens_per_second"]
    return found
