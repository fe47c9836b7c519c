"""A study at toy size: its settings, and the command on it."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from stages.config import load_run_config
from tests.stages.toys import Ended, run

MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the memory of the machine is told on Linux"),
]
TINY = (
    "{model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, "
    "max_position_embeddings: 64}"
)
SETTINGS = {
    "data.max_documents": "24",
    "data.validation_fraction": "0.2",
    "data.max_tokens": "6000",
    "data.sequence_length": "64",
    "cache.head_size": "16",
    "cache.shard_positions": "2000",
    "cache.batch_size": "8",
    "student.config": TINY,
    "train.steps": "3",
    "train.warmup_steps": "1",
    "train.batch_size": "2",
    "train.validation_sequences": "4",
    "eval.max_sequences": "4",
    "demo.vocab_size": "320",
    "demo.teacher": TINY,
    "demo.teacher_steps": "4",
    "demo.teacher_batch_size": "4",
}
MIDDLE_RATE = load_run_config("quality").train.learning_rate
ARMS = ["--arms", "default,compact,k4of320,tau2", "--seeds", "2"]
Study = tuple[Path, dict[str, Any]]
"""a study's folder, and what --json printed"""


def quality(run_dir: Path, *more: str, **changes: str) -> Ended:
    """The command on a toy study."""
    return run("bench", "quality", *words(run_dir, **changes), *more)


def words(run_dir: Path, **changes: str) -> list[str]:
    """Where and what a toy study is, on the command line."""
    settings = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    return ["--run-dir", str(run_dir), *(word for pair in settings.items() for word in ("--set", "=".join(pair)))]


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def step_of(rate: float) -> int:
    """From the study's middle rate, a factor of the square root of 2 each."""
    return round(2 * math.log2(rate / MIDDLE_RATE))
