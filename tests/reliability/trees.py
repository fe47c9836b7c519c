"""What lies on a disk: laid out, read back, compared, and told apart."""

from __future__ import annotations

import hashlib
import re
import shutil
from functools import lru_cache
from pathlib import Path

from tests.reliability.volume import Tree

_RANDOM_NAME = re.compile(r"\.[0-9a-f]{12}\.tmp\b")
_OF_THE_DAY = ("run/status.json", "run/student/timings.jsonl")  # hold times, or how often it was started


def lay_out(folder: Path, tree: Tree) -> None:
    """Make a folder hold a tree and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, content in sorted(tree.items()):
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


def read_tree(folder: Path) -> Tree:
    """What a folder holds."""
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}


def difference(found: Tree, expected: Tree) -> str:
    """Where two trees differ, but for what tells of the day; empty where they do not."""
    lines = []
    for path in sorted((found.keys() | expected.keys()) - set(_OF_THE_DAY)):
        if path not in expected:
            lines.append(f"{path}: is there and should not be")
        elif path not in found:
            lines.append(f"{path}: is missing")
        elif found[path] != expected[path]:
            lines.append(f"{path}: other bytes")
    return "\n".join(lines)


def fingerprint(tree: Tree) -> str:
    """The same for disks that no command can tell apart: random names count alike, and so do measured times."""
    entries = sorted(
        (_RANDOM_NAME.sub(".tmp", path), _digest(_without_times(path, content))) for path, content in tree.items()
    )
    return hashlib.sha256(repr(entries).encode()).hexdigest()


@lru_cache(maxsize=2**12)
def _digest(content: bytes | None) -> str:
    """Of a file; that of one disk is that of the next, but for what one operation changed."""
    return "a folder" if content is None else hashlib.sha256(content).hexdigest()


def _without_times(path: str, content: bytes | None) -> bytes | None:
    """The lines of timings.jsonl by their steps; a last one that is torn stays different from a whole one."""
    if content is None or "timings.jsonl" not in path:
        return content
    *whole, last = content.split(b"\n")
    return b"".join(line.partition(b",")[0] + b"\n" for line in whole) + (b"torn" if last else b"")
