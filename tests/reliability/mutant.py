"""A defect that somebody could bring into the product, and the smallest suite that must notice it.

The suite is run in a copy of the tree, in processes that cannot import the tree it was copied from.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.source_tree import ROOT

FOLDERS = ("pipeline", "stages", "tests", "configs")
OPTIONS = ("-q", "-x", "-p", "no:xdist", "-W", "ignore::pytest.PytestAssertRewriteWarning")
_OF_THIS_RUN = ("RELIABILITY", "PYTEST_")
# Python's own word for a slip in the mutant: whatever notices that has not noticed the defect.
_SLIPS = re.compile(r"^E +(?:Name|UnboundLocal|Import|ModuleNotFound|Attribute|Type)Error\b", re.MULTILINE)
_IN_EVERY_PROCESS = """\
import sys

sys.path[:] = [path for path in sys.path if path != {root!r}]
"""
_AT_ITS_END = """

import pathlib as _pathlib
_pathlib.Path({seen!r}).touch()
"""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One defect: in a file of the product some texts, each there exactly once, are replaced by others."""

    name: str
    kind: str
    file: str
    noticed_by: str
    """tests that must fail, as pytest is given them"""
    changes: tuple[tuple[str, str], ...]

    def source(self) -> str:
        """The file with the defect in it; AssertionError where it does not apply, or is no Python."""
        text = (ROOT / self.file).read_text(encoding="utf-8")
        for old, new in self.changes:
            assert text.count(old) == 1, f"{self.name}: {self.file} has {text.count(old)} times\n{old}"
            text = text.replace(old, new)
        compile(text, self.file, "exec", dont_inherit=True)
        return text


@dataclass(frozen=True, slots=True)
class Ended:
    """How the tests in a copy ended."""

    code: int
    said: str

    @property
    def is_green(self) -> bool:
        """Whether tests ran and all of them passed."""
        return self.code == 0 and bool(re.search(r"^\d+ passed", self.said, re.MULTILINE))

    @property
    def is_red(self) -> bool:
        """Whether a test failed, of itself: not for an error on the way to it, and not for a slip of the mutant's."""
        counts = re.search(r"^\d+ failed.* in [\d.]+s", self.said, re.MULTILINE)
        return self.code == 1 and counts is not None and "error" not in counts[0] and not _SLIPS.search(self.said)


class Copy:
    """The tree in a folder of its own, one defect at a time."""

    def __init__(self, folder: Path) -> None:
        self.root, self._seen = folder / "tree", folder / "seen"
        for made in (self.root, folder / "tmp"):
            made.mkdir(parents=True)
        for name in FOLDERS:
            shutil.copytree(ROOT / name, self.root / name)
        shutil.copy(ROOT / "pyproject.toml", self.root)
        (self.root / "sitecustomize.py").write_text(_IN_EVERY_PROCESS.format(root=str(ROOT)), encoding="utf-8")
        self._nursery = self._begin()

    def __enter__(self) -> Copy:
        return self

    def __exit__(self, *_: object) -> None:
        self._nursery.communicate()

    def run(self, tests: str, mutant: Mutant | None = None) -> Ended:
        """Run tests here, up to the first that fails, with a defect or without one."""
        if mutant is None:
            return self._run(tests)
        path = self.root / mutant.file
        whole = path.read_bytes()
        self._seen.unlink(missing_ok=True)
        try:
            self._write(path, (mutant.source() + _AT_ITS_END.format(seen=str(self._seen))).encode())
            ended = self._run(tests)
        finally:
            self._write(path, whole)
        assert self._seen.exists(), f"{mutant.name}: its tests do not import {mutant.file}"
        return ended

    def _write(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            compiled.unlink()

    def _run(self, tests: str) -> Ended:
        log = self.root.parent / "log"
        arguments = [*OPTIONS, f"--basetemp={self.root.parent / 'temporary'}", *tests.split(" ")]
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write(json.dumps([str(log), *arguments]) + "\n")
        self._nursery.stdin.flush()
        return Ended(int(self._nursery.stdout.readline()), log.read_text(encoding="utf-8"))

    def _begin(self) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OF_THIS_RUN)}
        ours = {"PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        ours |= {"TMPDIR": str(self.root.parent / "tmp")}  # what a run that is ended leaves there goes with the copy
        nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.nursery"],
            cwd=self.root,
            env=kept | ours | {"TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert nursery.stdout is not None
        assert nursery.stdout.readline() == "ready\n"
        return nursery
