"""A toy project laid out as a user's, the real commands run on it, and what folders hold before and after."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner

from pipeline import console
from stages.cli import main
from tests import tiny

REPOSITORY = Path(__file__).parents[2]
PRELOADED = [
    "pytest",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "stages.cache_teacher",
    "stages.train_student",
    __name__,
]
STUDENT = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}


@dataclass(frozen=True, slots=True)
class Toy:
    """A teacher, some texts, and a config that names them."""

    folder: Path
    config: Path

    @property
    def teacher(self) -> Path:
        """The teacher's folder."""
        return self.folder / "teacher"

    @property
    def texts(self) -> Path:
        """The folder of texts."""
        return self.folder / "texts"

    def command(self, stage: str, run_dir: Path, *more: str) -> list[str]:
        """The arguments of a stage on this config."""
        return [stage, "-c", str(self.config), "--run-dir", str(run_dir), *more]

    def run(self, stage: str, run_dir: Path, *more: str) -> Ended:
        """Run a stage in this process."""
        return run(*self.command(stage, run_dir, *more))

    def ran(self, stage: str, run_dir: Path, *more: str) -> Ended:
        """Run a stage in this process; it must succeed."""
        ended = self.run(stage, run_dir, *more)
        assert ended.code == 0, ended.stderr
        return ended


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended and what it said."""

    code: int
    stdout: str
    stderr: str


def make_toy(folder: Path, model_type: str = "llama", **model_changes: Any) -> Toy:
    """Lay out a toy project: 7 shards of training sequences and 2 to validate on."""
    tiny.save_model(folder / "teacher", model_type, **model_changes)
    tiny.write_texts(folder / "texts")
    values = {
        "name": "toy",
        "data": {
            "source": "text",
            "path": str(folder / "texts"),
            "sequence_length": 32,
            "validation_fraction": 0.2,
        },
        "teacher": {"model": str(folder / "teacher")},
        "cache": {"head_size": 16, "num_draws": 4, "shard_positions": 1200, "batch_size": 8},
        "student": {"config": STUDENT | {"num_attention_heads": 2, "num_key_value_heads": 2}},
        "train": {
            "steps": 12,
            "batch_size": 4,
            "warmup_steps": 2,
            "ema_decay": 0.999,
            "evaluate_every": 6,
            "checkpoint_every": 4,
            "validation_sequences": 8,
            "log_every": 1,
            "window_shards": 2,
        },
        "eval": {"sample_tokens": 4},
    }
    (folder / "toy.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return Toy(folder, folder / "toy.yaml")


# ------------------------------------------------------------------ running commands


def run(*arguments: str) -> Ended:
    """Run a command in this process, as the command line would; an unexpected error is raised, not swallowed."""
    console._said.clear()
    result = CliRunner().invoke(main, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, result.stdout, result.stderr)


def run_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in a new interpreter."""
    return subprocess.run(
        [sys.executable, "-m", "stages", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


def limit(num_bytes: float) -> list[str]:
    """The flag that allows so many bytes."""
    return ["--max-output-gb", f"{num_bytes / 1e9:.9f}"]


def start(arguments: list[str], log: Path, die_at: int | None = None) -> BaseProcess:
    """Start a command in a process of its own, forked from one that has only done the imports.

    With `die_at` it sends itself SIGKILL before the n-th operation (from 0) that makes something durable or visible.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_command, args=(arguments, str(log), die_at))
    process.start()
    return process


def wait(process: BaseProcess, seconds: float = 120) -> int:
    """The exit code of a process; negative for a signal."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"still running after {seconds} seconds")
    return process.exitcode


def _command(arguments: list[str], log: str, die_at: int | None) -> None:
    """The child: both streams to `log`, one thread, then the command."""
    import torch

    torch.set_num_threads(1)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if die_at is not None:
        _die_at_operation(die_at)
    sys.argv = ["sad-pipeline", *arguments]
    main(arguments)


def _die_at_operation(number: int) -> None:
    count = 0

    def deadly(operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return operation(*args, **kwargs)

        return counted

    for name in ("fsync", "replace", "rename", "unlink", "mkdir"):
        setattr(os, name, deadly(getattr(os, name)))


# ------------------------------------------------------------------ looking at folders


def tree(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256, of every file below a folder, hidden ones included."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def stamps(folder: Path) -> dict[str, int]:
    """Relative path -> time of the last change in nanoseconds, of everything below a folder."""
    return {str(path.relative_to(folder)): path.lstat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def temporaries(folder: Path) -> list[Path]:
    """What a crash left half-written."""
    return sorted(folder.rglob("*.tmp"))


def status(run_dir: Path) -> dict[str, Any]:
    """status.json of a run."""
    value: dict[str, Any] = json.loads((run_dir / "status.json").read_text(encoding="utf-8"))
    return value


def sealed(run_dir: Path) -> int:
    """How many shards are sealed in a run."""
    return len(list(run_dir.glob("cache/shards/*.seal.json")))


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of eval.json."""
    rows: list[dict[str, Any]] = json.loads((run_dir / "eval" / "eval.json").read_text(encoding="utf-8"))["rows"]
    return rows


def copy(source: Path, target: Path) -> Path:
    """A copy of a folder."""
    return Path(shutil.copytree(source, target))


def half_sealed(cached: Path, run_dir: Path, kept: int = 5) -> Path:
    """A copy of a cache with all but `kept` shards gone."""
    copy(cached, run_dir)
    for path in sorted(run_dir.glob("cache/shards/*"))[2 * kept :]:
        path.unlink()
    return run_dir


def flip_a_bit(path: Path, at: float = 0.5) -> None:
    """Change one bit at a share of a file's length."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 4
    path.write_bytes(data)
