"""How a stage must refuse: the exit code, a message that teaches, and nothing half-written."""

from __future__ import annotations

from pathlib import Path

from pipeline.cache import TeacherCache
from tests.stages.toys import Ended, temporaries


def refuse(ended: Ended, code: int, *words: str) -> None:
    """The command ended with `code`, and its one message holds all the words."""
    assert ended.code == code, ended.stderr
    for word in words:
        assert word in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def nothing_half_written(run_dir: Path) -> None:
    """No temporary file, and no plan without what it speaks of."""
    assert temporaries(run_dir) == []
    if (run_dir / "cache" / "plan.json").exists():
        TeacherCache.open(run_dir)
        assert (run_dir / "cache" / "sequences.shard").is_file()
        assert (run_dir / "cache" / "tokenizer" / "tokenizer.json").is_file()
