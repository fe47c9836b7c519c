"""Real commands ended from outside at moments of time, and what their run directories hold then."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import xxhash

from tests.stages.toys import Toy, start, temporaries, tree, wait

CAPTURE, TRAINING = "cache-teacher", "train-student"
CHECKPOINT_EVERY, STEPS = 4, 12  # of the toy


@dataclass(slots=True)
class Job:
    """A command on the toy, and what became of it undisturbed."""

    toy: Toy
    stage: str
    more: tuple[str, ...]
    seconds: float
    """it takes; less where a later one was quicker, which a machine that has other work at first makes likely"""
    left: dict[str, str]

    def arguments(self, run_dir: Path) -> list[str]:
        """The command line."""
        return self.toy.command(self.stage, run_dir, *self.more)

    def finish(self, run_dir: Path, paused: bool = False) -> str:
        """Run it to its end, which must leave the bytes of the undisturbed one; returns what it said.

        A pause saves a checkpoint of its own, so that the one before the last may be another one.
        """
        said = self.toy.ran(self.stage, run_dir, *self.more).stderr
        assert temporaries(run_dir) == []
        found, left = ({name: digest for name, digest in files.items() if not (paused and _is_of_an_older_step(name))}
                       for files in (what_lasts(run_dir), self.left))  # fmt: skip
        odd = sorted(name for name in found | left if found.get(name) != left.get(name))
        assert not odd, f"not the bytes of the straight one: {odd}"
        return said


def undisturbed(toy: Toy, stage: str, run_dir: Path, *more: str) -> Job:
    """Run a command twice in processes of its own; the second time is the one that counts."""
    for name in ("first", "second"):
        began = time.monotonic()
        process = start(toy.command(stage, run_dir / name, *more), run_dir / f"{name}.log")
        assert wait(process) == 0, (run_dir / f"{name}.log").read_text()
        seconds = time.monotonic() - began
    assert what_lasts(run_dir / "first") == what_lasts(run_dir / "second")
    return Job(toy, stage, more, seconds, what_lasts(run_dir / "second"))


def what_lasts(run_dir: Path) -> dict[str, str]:
    """Hashes of all files of a run, but for those that tell of the machine, the time, or the folder's name."""
    of_a_start = ("status.json", ".lock", "student/timings.jsonl")
    return {name: digest for name, digest in tree(run_dir).items() if name not in of_a_start}


def _is_of_an_older_step(name: str) -> bool:
    """Of a checkpoint that is not the last one of the toy's 12 steps."""
    return name.startswith("student/checkpoints/step-") and f"step-{STEPS:08}" not in name


def killed(job: Job, run_dir: Path, after: float) -> bool:
    """Start the command and SIGKILL it after so many seconds; False where it had come to its end by then."""
    began, fresh = time.monotonic(), not run_dir.exists()
    process = start(job.arguments(run_dir), run_dir.with_suffix(".log"))
    process.join(after)
    if process.exitcode is None:
        process.kill()
    elif fresh:
        job.seconds = min(job.seconds, time.monotonic() - began)
    code = wait(process)
    assert code in (0, -signal.SIGKILL), run_dir.with_suffix(".log").read_text()
    return code != 0


def signalled(job: Job, run_dir: Path, after: float, *numbers: signal.Signals) -> tuple[int, float]:
    """Start the command and, `after` seconds after it said in status.json that it is at work, send it signals.

    Returns its exit code and how many seconds later it had ended.
    """
    assert not (run_dir / "status.json").exists()
    process = start(job.arguments(run_dir), run_dir.with_suffix(".log"))
    while not (run_dir / "status.json").is_file() and process.is_alive():
        time.sleep(0.001)
    process.join(after)
    sent = time.monotonic()
    assert process.pid is not None
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
    return wait(process), time.monotonic() - sent


# ------------------------------------------------------------------ what is on disk


def sealed_shards(run_dir: Path) -> set[str]:
    """Names of the shards that have a seal; each must have the bytes that its seal names."""
    names = set()
    for path in (run_dir / "cache" / "shards").glob("*.seal.json"):
        seal = json.loads(path.read_bytes())
        data = path.with_name(seal["shard"]).read_bytes()
        assert (len(data), xxhash.xxh3_128_hexdigest(data)) == (seal["size_bytes"], seal["xxh3_128"]), path
        names.add(seal["shard"])
    return names


def unsealed_shards(run_dir: Path) -> set[str]:
    """Names of the shards that something is there of, and no seal."""
    found = {path.name.lstrip(".").split(".")[0] for path in (run_dir / "cache" / "shards").glob("*")}
    found |= {path.name.lstrip(".").split(".")[0] for path in (run_dir / "cache" / "shards").glob(".*")}
    return {f"{number}.shard" for number in found} - sealed_shards(run_dir)


def steps_kept(run_dir: Path) -> int:
    """The step of the newest checkpoint that is whole; 0 without one."""
    return max((step for step in _checkpoints(run_dir) if _is_whole(_checkpoints(run_dir)[step])), default=0)


def steps_logged(run_dir: Path) -> int:
    """The last step that metrics.jsonl tells of."""
    path = run_dir / "student" / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def _checkpoints(run_dir: Path) -> dict[int, Path]:
    return {int(path.name[-8:]): path for path in (run_dir / "student" / "checkpoints").glob("step-*")}


def _is_whole(folder: Path) -> bool:
    if not (folder / "COMMIT.json").is_file():
        return False
    for name, digest in json.loads((folder / "COMMIT.json").read_bytes()).items():
        assert xxhash.xxh3_128_hexdigest((folder / name).read_bytes()) == digest["xxh3_128"], folder / name
    return True


def place(stage: str, run_dir: Path) -> str:
    """In words, how far a run had come when it was ended."""
    if stage == CAPTURE:
        if not (run_dir / "cache" / "plan.json").is_file():
            return "before there is a plan"
        return "in the middle of a shard's writing" if unsealed_shards(run_dir) else "with whole shards alone"
    if temporaries(run_dir) or not all(map(_is_whole, _checkpoints(run_dir).values())):
        return "in the middle of something written"
    if not steps_logged(run_dir):
        return "before the first step"
    return "between checkpoints" if steps_logged(run_dir) > steps_kept(run_dir) else "right after a checkpoint"
