"""Nothing is written, locked or created under a root, which a tree of the same bytes and times alone would not show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.source_tree import ROOT as REPOSITORY
from tests.stages.toys import Toy, copy, half_sealed, tree
from tests.stages.trainings import checkpoint, what_counts

WATCHED = """
import os, sys

ROOT, WRITING = os.path.realpath(sys.argv[1]), os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod",
           "os.chown", "os.utime", "os.setxattr"}

def is_below(place):
    if isinstance(place, int):
        place = os.readlink(f"/proc/self/fd/{place}")
    return os.path.realpath(os.fsdecode(place)).startswith(ROOT)

def touches(event, arguments):
    if event == "open":
        path, _, flags = arguments
        return path is not None and flags & WRITING and is_below(path)
    if event in ("fcntl.flock", "fcntl.lockf"):
        return is_below(arguments[0])
    return event in CHANGES and any(is_below(place) for place in arguments if isinstance(place, (str, bytes)))

def watch(event, arguments):
    if touches(event, arguments):
        os.write(2, f"TOUCHED by {event} {arguments}".encode())
        os._exit(99)

sys.addaudithook(watch)
from stages.cli import main
main(sys.argv[2:])
"""


def watched(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that ends at once, with 99, where it touches `root`."""
    return subprocess.run(
        [sys.executable, "-c", WATCHED, str(root), *arguments],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_roots_are_only_read(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    """A capture, a training and an evaluation that go on from what earlier sessions left."""
    mounted = tmp_path / "mounted"
    half_sealed(cached, mounted / "first", kept=3)
    copy(trained, mounted / "deep" / "second")
    (checkpoint(mounted / "deep" / "second", 12) / "COMMIT.json").unlink()
    before, run_dir = tree(mounted), tmp_path / "run"
    roots = ("--set", f"cache.roots=[{mounted}]", "--set", f"train.roots=[{mounted}]")
    for stage in ("cache-teacher", "train-student", "eval", "cache-teacher", "train-student"):
        done = watched(mounted, *toy.command(stage, run_dir, *roots))
        assert done.returncode == 0, f"{stage}: {done.stderr}"
    for command in ("report", "verify", "inspect"):
        done = watched(mounted, command, str(run_dir))
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert tree(mounted) == before
    assert what_counts(run_dir) == what_counts(trained)


@pytest.mark.slow
def test_the_watch_bites(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir = copy(cached, tmp_path / "run")
    done = watched(run_dir, *toy.command("train-student", run_dir))
    assert (done.returncode, "TOUCHED by" in done.stderr) == (99, True), done.stderr
    assert "lock" in done.stderr
