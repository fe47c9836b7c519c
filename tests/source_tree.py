"""The project's own source as syntax trees: what it imports, calls and defines, and where."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FLOORS = ("ground", "data", "cache", "models", "distill", "evaluation", "pricing", "doctor", "benches", "stages")


@dataclass(frozen=True, slots=True)
class Module:
    """One file of pipeline/ or stages/."""

    path: str  # relative to the root, with slashes
    tree: ast.Module
    num_lines: int

    @property
    def room(self) -> str:
        """The room it is in: one of FLOORS."""
        first, *rest = self.path.split("/")
        return first if first == "stages" else rest[0] if len(rest) > 1 else "ground"

    def imports(self) -> Iterator[tuple[str, int]]:
        """Full name of every module imported, lazily or for types as well, and the line."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}:{node.lineno}: imports are absolute here"
                yield from ((self._imported(node.module or "", alias.name), node.lineno) for alias in node.names)

    def calls(self) -> Iterator[tuple[str, ast.Call]]:
        """Dotted name of what is called, as written, and the call; a method of an expression is `?.name`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield dotted(node.func), node

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Every function, nested ones and methods too."""
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield node

    @staticmethod
    def _imported(module: str, name: str) -> str:
        whole = f"{module}.{name}"
        if module.split(".")[0] not in ("pipeline", "stages"):
            return module
        path = ROOT / whole.replace(".", "/")
        return whole if path.is_dir() or path.with_suffix(".py").is_file() else module


def dotted(node: ast.expr) -> str:
    """`os.replace` for the expression that says so; `?.replace` where the left side is no plain name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return "?"


def room_of(name: str) -> str:
    """The room of a module of this project, by its full name."""
    path = ROOT / name.replace(".", "/")
    return Module(f"{path.relative_to(ROOT)}{'/__init__' if path.is_dir() else ''}.py", ast.Module([], []), 0).room


@functools.cache
def modules() -> tuple[Module, ...]:
    """Every file of pipeline/ and stages/."""
    paths = sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").rglob("*.py")])
    texts = [(path, path.read_text(encoding="utf-8")) for path in paths]
    return tuple(Module(path.relative_to(ROOT).as_posix(), ast.parse(text), text.count("\n")) for path, text in texts)
