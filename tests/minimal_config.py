"""The shortest config that loads, with more keys or others on the command line."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import load_config
from stages.config import RunConfig

MINIMAL = """
data: {source: stdlib}
teacher: {model: a/teacher}
student: {model: a/student}
train: {steps: 5}
"""


def load(path: Path, *overrides: str, more: str = "") -> RunConfig:
    """It, written to `path` with `more` at its end, and read with `--set` for each of `overrides`."""
    path.write_text(MINIMAL + more, encoding="utf-8")
    return load_config(RunConfig, path, overrides)
