"""Stages at the limit of their output, through the real commands: they pause, lose nothing, go on to the same bytes."""

from __future__ import annotations

import shlex
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.distill.learner import Learner
from pipeline.models.teacher import Teacher
from pipeline.output_limit import folder_bytes
from stages import cache_teacher
from tests.stages.refusals import refuse
from tests.stages.toys import Ended, Toy, copy, limit, sealed, stamps, status, temporaries, tree
from tests.stages.trainings import checkpoint, what_counts

KILO = 1000
OF_A_RUN = ("status.json", "config.yaml", ".lock")


def lasting(run_dir: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Hashes and times of everything in a run but what every start writes anew."""
    times = {name: time for name, time in stamps(run_dir).items() if name not in (*OF_A_RUN, ".")}
    return {name: digest for name, digest in tree(run_dir).items() if name not in OF_A_RUN}, times


def paused(ended: Ended, run_dir: Path, *words: str) -> None:
    """It must have paused cleanly, at the limit, with these words in its message."""
    assert ended.code == 0, ended.stderr
    left = status(run_dir)
    assert (left["state"], left["message"] in ended.stderr) == ("paused", True)
    assert left["waits_for"] == "room"
    for word in ("the limit of session.max_output_gb is reached", "are taken in", *words):
        assert word in left["message"], (word, left["message"])
    assert temporaries(run_dir) == []


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a teacher may be loaded nor a step be learned."""

    def work(*arguments: object) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr(cache_teacher, "load_teacher", work)
    monkeypatch.setattr(Learner, "learn", work)


# ------------------------------------------------------------------ cache-teacher


def test_capture_pauses_at_the_limit_and_goes_on_to_the_same_bytes(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir, counts = tmp_path / "run", []
    for kilobytes in (150, 200, 250):
        ended = toy.run("cache-teacher", run_dir, *limit(kilobytes * KILO))
        paused(ended, run_dir, f"of {kilobytes} kB", "the next shard needs up to", "cache.roots", "--max-output-gb")
        assert folder_bytes(run_dir) <= kilobytes * KILO
        counts.append(sealed(run_dir))
        assert f"{9 - counts[-1]} shards, takes about" in status(run_dir)["message"]
        assert status(run_dir)["progress"]["shards"] == counts[-1]
    assert 0 < counts[0] < counts[1] < counts[2] < 9
    toy.ran("cache-teacher", run_dir)
    assert tree(run_dir / "cache") == tree(cached / "cache")


@pytest.mark.usefixtures("no_work")
def test_capture_at_the_limit_again_pauses_at_once(toy: Toy, cached: Path, tmp_path: Path) -> None:
    """With the teacher not even loaded; the smallest shard that is missing would do, and none is there in part."""
    run_dir = copy(cached, tmp_path / "run")
    for kind in ("seal.json", "shard"):
        (run_dir / "cache" / "shards" / f"00005.{kind}").unlink()
    before = lasting(run_dir)
    for _ in range(2):
        ended = toy.run("cache-teacher", run_dir, *limit(folder_bytes(run_dir) + 20 * KILO))
        paused(ended, run_dir, "1 shard, takes about")
        assert lasting(run_dir) == before


def test_a_complete_cache_is_complete_at_any_limit(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir = copy(cached, tmp_path / "run")
    ended = toy.ran("cache-teacher", run_dir, *limit(1 * KILO))
    assert "all 9 shards sealed" in ended.stderr
    assert status(run_dir)["state"] == "complete"


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder of inputs; what `attach` has put there cannot be changed until the test is over."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    yield folder
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)


def attach(output: Path, inputs: Path) -> None:
    """Make a session's output an input, as a notebook host does."""
    target = Path(shutil.move(output, inputs / f"session-{len(list(inputs.iterdir()))}"))
    for path in [*target.rglob("*"), target]:
        path.chmod(stat.S_IRUSR | (stat.S_IXUSR if path.is_dir() else 0))


def test_a_cache_larger_than_every_session_may_leave(toy: Toy, cached: Path, tmp_path: Path, read_only: Path) -> None:
    """Each session begins in an empty folder; what earlier ones left is a root, and not counted."""
    num_sessions = 0
    while True:
        num_sessions += 1
        ended = toy.run("cache-teacher", tmp_path / "run", "--set", f"cache.roots=[{read_only}]", *limit(125 * KILO))
        assert folder_bytes(tmp_path / "run") <= 125 * KILO
        if status(tmp_path / "run")["state"] == "complete":
            break
        paused(ended, tmp_path / "run")
        attach(tmp_path / "run", read_only)
        assert num_sessions < 9
    attach(tmp_path / "run", read_only)
    assert num_sessions >= 3
    assert folder_bytes(read_only) > 2 * 125 * KILO
    made = {}
    for session in read_only.iterdir():
        shards = tree(session / "cache" / "shards")
        assert not made.keys() & shards.keys(), "no shard was computed twice"
        made |= shards
    assert made == tree(cached / "cache" / "shards")


def test_a_limit_under_one_shard_is_told_before_any_is_scored(
    toy: Toy, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored, real = [], Teacher.score
    monkeypatch.setattr(
        Teacher, "score", lambda self, sequences, rows: scored.append(len(rows)) or real(self, sequences, rows)
    )
    for place in (tmp_path / "new", copy(cached, tmp_path / "begun")):
        for path in place.glob("cache/shards/0000[1-8]*"):
            path.unlink()
        begun = place.exists()
        before = lasting(place) if begun else None
        ended = toy.run("cache-teacher", place, *limit(40 * KILO))
        shard = "one shard of this cache alone" if begun else "one shard of this cache with the packed text alone"
        refuse(ended, 2, "session.max_output_gb: 40 kB are allowed", f"{shard} needs up to", "cache.shard_positions")
        assert not (place / "cache" / "plan.json").exists() or lasting(place) == before
    assert sum(scored) <= 8, "nothing but the first batch, by which a plan is made"


def test_a_limit_that_other_files_have_used_up_leaves_no_plan(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "earlier.bin").write_bytes(b"x" * 190 * KILO)
    ended = toy.run("cache-teacher", run_dir, *limit(200 * KILO))
    paused(ended, run_dir, "the next shard with the packed text needs up to")
    assert "paused before there was a plan" in ended.stderr
    assert not (run_dir / "cache").exists()
    (run_dir / "earlier.bin").unlink()
    toy.ran("cache-teacher", run_dir)
    assert tree(run_dir / "cache") == tree(cached / "cache")


def test_outputs_beside_the_run_share_the_limit(toy: Toy, tmp_path: Path) -> None:
    """The limit of a notebook is that of all it leaves: other runs lie beside this one."""
    run_dir = tmp_path / "artifacts" / "mine"
    (tmp_path / "artifacts" / "other").mkdir(parents=True)
    (tmp_path / "artifacts" / "other" / "weights").write_bytes(b"x" * 300 * KILO)
    both = ["--set", f"session.output_folders=[{tmp_path / 'artifacts'}]"]
    ended = toy.run("cache-teacher", run_dir, *both, *limit(450 * KILO))
    paused(ended, run_dir, f"are taken in {run_dir} and {tmp_path / 'artifacts'}")
    assert 0 < sealed(run_dir) < 9
    assert 400 * KILO < folder_bytes(tmp_path / "artifacts") <= 450 * KILO
    assert "all 9 shards sealed" in toy.ran("cache-teacher", run_dir, *limit(450 * KILO)).stderr


def test_the_limit_of_the_config_counts_and_the_command_to_go_on_is_exact(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = toy.command("cache-teacher", tmp_path / "my run", "--set", "session.max_output_gb=0.00015")
    monkeypatch.setattr(sys, "argv", ["sad-pipeline", *arguments])
    ended = toy.run(*arguments[:1], tmp_path / "my run", *arguments[5:], "--paused-exit-code", "75")
    assert ended.code == 75
    left = status(tmp_path / "my run")
    assert shlex.split(left["next_command"]) == ["sad-pipeline", *arguments]
    assert "of 150 kB" in left["message"]


# ------------------------------------------------------------------ train-student


def test_training_pauses_at_the_limit_and_goes_on_to_the_same_bytes(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    run_dir, roots, steps = tmp_path / "run", ["--set", f"cache.roots=[{cached}]"], []
    for kilobytes in (350, 600):
        ended = toy.run("train-student", run_dir, *roots, *limit(kilobytes * KILO))
        paused(ended, run_dir, "a checkpoint of this training with its best weights needs up to", "train.roots")
        assert folder_bytes(run_dir) <= kilobytes * KILO
        steps.append(status(run_dir)["progress"]["steps"])
        assert checkpoint(run_dir, steps[-1]).is_dir(), "it pauses where a checkpoint has just been made"
    assert steps == [4, 8]
    toy.ran("train-student", run_dir, *roots)
    assert what_counts(run_dir) == what_counts(trained)


@pytest.mark.usefixtures("no_work")
def test_training_at_the_limit_again_pauses_at_once(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    run_dir = copy(trained, tmp_path / "run")
    shutil.rmtree(checkpoint(run_dir, 12))
    shutil.rmtree(run_dir / "student" / "model")
    before = lasting(run_dir)
    for _ in range(2):
        ended = toy.run("train-student", run_dir, "--set", f"cache.roots=[{cached}]", *limit(500 * KILO))
        paused(ended, run_dir)
        assert status(run_dir)["progress"] == {"steps": 8, "of": 12}
        assert lasting(run_dir) == before


def test_a_training_in_sessions_that_begin_in_empty_folders(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path, read_only: Path
) -> None:
    run_dir, steps = tmp_path / "run", []
    options = ["--set", f"cache.roots=[{cached}]", "--set", f"train.roots=[{read_only}]", *limit(400 * KILO)]
    while (ended := toy.run("train-student", run_dir, *options)).code == 0:
        assert folder_bytes(run_dir) <= 400 * KILO
        steps.append(status(run_dir)["progress"]["steps"])
        if status(run_dir)["state"] == "complete":
            break
        attach(run_dir, read_only)
        assert len(steps) < 6
    assert ended.code == 0, ended.stderr
    assert steps == [4, 8, 12]
    assert what_counts(run_dir) == what_counts(trained)


def test_a_limit_under_one_checkpoint_is_told_before_any_step(
    toy: Toy, cached: Path, tmp_path: Path, no_work: None
) -> None:
    ended = toy.run("train-student", tmp_path / "run", "--set", f"cache.roots=[{cached}]", *limit(200 * KILO))
    words = "a checkpoint of this training with its best weights alone needs up to"
    refuse(ended, 2, "session.max_output_gb: 200 kB are allowed", words, "smaller student, or train.ema_decay: 0")
    assert not (tmp_path / "run" / "student").exists()


def test_a_training_that_will_not_end_within_the_limit_is_told_so(
    toy: Toy, cached: Path, tmp_path: Path, trained: Path
) -> None:
    roots = ["--set", f"cache.roots=[{cached}]", "--set", "train.steps=4"]
    note = "this training may be paused before its end: its checkpoints and its model take up to 1.01 MB"
    assert note in toy.ran("train-student", tmp_path / "tight", *roots, *limit(1000 * KILO)).stderr
    assert note not in toy.ran("train-student", tmp_path / "wide", *roots, *limit(1020 * KILO)).stderr


def test_a_student_that_finds_no_room_is_written_later(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    """The steps are all done and saved; only the finished model is left."""
    run_dir, roots = copy(trained, tmp_path / "run"), ["--set", f"cache.roots=[{cached}]"]
    shutil.rmtree(run_dir / "student" / "model")
    before = lasting(run_dir)
    ended = toy.run("train-student", run_dir, *roots, *limit(folder_bytes(run_dir) + 40 * KILO))
    paused(ended, run_dir, "the finished student needs up to")
    assert status(run_dir)["progress"] == {"steps": 12, "of": 12}
    assert lasting(run_dir) == before
    toy.ran("train-student", run_dir, *roots, *limit(folder_bytes(run_dir) + 140 * KILO))
    assert tree(run_dir / "student" / "model") == tree(trained / "student" / "model")


# ------------------------------------------------------------------ what a kill left


def test_a_kill_in_a_checkpoint_is_no_shortage_for_ever(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    """Near the limit, in the last checkpoint: what is there of it goes before room for it is asked for."""
    run_dir, roots = copy(trained, tmp_path / "run"), ["--set", f"cache.roots=[{cached}]"]
    shutil.rmtree(run_dir / "student" / "model")
    (checkpoint(run_dir, 12) / "COMMIT.json").unlink()
    allowed = folder_bytes(run_dir) + 130 * KILO
    ended = toy.ran("train-student", run_dir, *roots, *limit(allowed))
    assert "continuing after step 8" in ended.stderr
    assert (status(run_dir)["state"], folder_bytes(run_dir) <= allowed) == ("complete", True)
    assert what_counts(run_dir) == what_counts(trained)


@pytest.mark.usefixtures("no_work")
def test_a_kill_before_an_old_checkpoint_was_let_go_of_is_none_either(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    run_dir, roots = copy(trained, tmp_path / "run"), ["--set", f"cache.roots=[{cached}]"]
    shutil.rmtree(run_dir / "student" / "model")
    copy(checkpoint(run_dir, 8), checkpoint(run_dir, 4))
    toy.ran("train-student", run_dir, *roots, *limit(folder_bytes(run_dir) + 10 * KILO))
    assert status(run_dir)["state"] == "complete"
    assert what_counts(run_dir) == what_counts(trained)
