"""A disk as a crash sees it: what is in its files and folders, what of that would survive, what the system may lose.

The contents of a file last from its fsync on, the names in a folder from the fsync of the folder on. Until then a
power cut may take any of the writes to a file and any of the changes of names, in any combination.
"""

from __future__ import annotations

import itertools
import math
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from random import Random

Tree = dict[str, bytes | None]
"""Path below the root -> bytes of a file, None for a folder"""

Change = tuple[tuple[str, "Node", bool], ...]
"""Of names in a folder, all at once: (name, node, whether the node has the name from then on)"""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call that changed the disk or made a change last; paths are below the root, "" is the root."""

    kind: str
    path: str
    target: str = ""
    offset: int = 0
    data: bytes = b""

    def __str__(self) -> str:
        more = f" -> {self.target}" if self.target else f" ({len(self.data)} bytes)" if self.data else ""
        return f"{self.kind} {self.path or '.'}{more}"


@dataclass(eq=False, slots=True)
class File:
    """Bytes now, bytes as of the last fsync, and the writes since."""

    content: bytes = b""
    durable: bytes = b""
    pending: list[tuple[int, bytes]] = field(default_factory=list)

    def write(self, offset: int, data: bytes) -> None:
        """Bytes at a place; a hole before it is zeros. An empty write at 0 stands for a truncation to nothing."""
        self.content = written(self.content, offset, data)
        self.pending.append((offset, data))

    def sync(self) -> None:
        """What is there now lasts."""
        self.durable, self.pending = self.content, []

    def after_a_cut(self) -> list[bytes]:
        """Every content that a power cut may leave, each once; first what lasts for certain."""
        left = [self.durable, self.content]
        for kept in range(len(self.pending) + 1):
            before = self.durable
            for offset, data in self.pending[:kept]:
                before = written(before, offset, data)
            left.append(before)  # the rest is lost
            if kept < len(self.pending):
                offset, data = self.pending[kept]
                half = data[: len(data) // 2]
                left += [
                    written(before, offset, half),  # torn
                    written(before, offset, bytes(len(data))),  # the length lasts, the bytes do not
                    written(before, offset, half + bytes(len(data) - len(half))),
                ]
                without = before  # this one is lost, later ones are not
                for later in self.pending[kept + 1 :]:
                    without = written(without, *later)
                left.append(without)
        return list(dict.fromkeys(left))


@dataclass(eq=False, slots=True)
class Folder:
    """Names now, names as of the last fsync, and the changes since."""

    entries: dict[str, Node] = field(default_factory=dict)
    durable: dict[str, Node] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)

    def change(self, *names: tuple[str, Node, bool]) -> None:
        """Give and take names in one step."""
        self.entries = _changed(self.entries, names)
        self.pending.append(names)

    def sync(self) -> None:
        """The names there are now last."""
        self.durable, self.pending = dict(self.entries), []


Node = File | Folder


class Volume:
    """The files and folders below one root."""

    def __init__(self, tree: Tree | None = None) -> None:
        """What `tree` holds lasts from the start."""
        self.root = Folder()
        for path, content in sorted((tree or {}).items()):
            folder, name = self._place(path)
            folder.entries[name] = Folder() if content is None else File(content, content)
            folder.durable = dict(folder.entries)

    def find(self, path: str) -> Node | None:
        """What has this path now."""
        node: Node | None = self.root
        for name in path.split("/") if path else []:
            node = node.entries.get(name) if isinstance(node, Folder) else None
        return node

    def tree(self) -> Tree:
        """All there is now."""
        return _tree(self.root, lambda folder: folder.entries, lambda file: file.content)

    def apply(self, operation: Operation) -> None:
        """Do what a call did."""
        folder, name = self._place(operation.path)
        node = self.find(operation.path)
        match operation.kind:
            case "create":
                folder.change((name, File(), True))
            case "mkdir":
                folder.change((name, Folder(), True))
            case "unlink" | "rmdir":
                assert node is not None, operation
                folder.change((name, node, False))
            case "write" | "truncate":
                assert isinstance(node, File), operation
                node.write(operation.offset, operation.data)
            case "fsync":
                assert node is not None, operation
                node.sync()
            case "rename" | "exchange":
                self._rename(operation, folder, name)
            case _:
                assert operation.kind == "chmod", operation

    def _rename(self, operation: Operation, folder: Folder, name: str) -> None:
        other, target = self._place(operation.target)
        assert folder is other, f"{operation}: from one folder into another"
        node, replaced = folder.entries[name], folder.entries.get(target)
        if operation.kind == "rename":
            folder.change((name, node, False), (target, node, True))
        else:
            assert replaced is not None, operation
            folder.change((target, node, True), (name, replaced, True))

    def _place(self, path: str) -> tuple[Folder, str]:
        parent, name = posixpath.split(path)
        folder = self.find(parent)
        assert isinstance(folder, Folder), path
        return folder, name

    # -------------------------------------------------------------- power cuts

    def cuts(self, most: int, random: Random) -> Iterator[Tree]:
        """Trees that a power cut now may leave: all of them where they are few, else so many drawn ones.

        First come the two ends: all that was not synced is lost, and none of it is.
        """
        folders = [folder for folder in self._nodes() if isinstance(folder, Folder)]
        files = {id(file): file.after_a_cut() for file in self._nodes() if isinstance(file, File)}
        changes = [(folder, number) for folder in folders for number in range(len(folder.pending))]
        open_files = [key for key, contents in files.items() if len(contents) > 1]
        num_combinations = 2 ** len(changes) * math.prod(len(files[key]) for key in open_files)
        lost = (0,) * len(open_files)
        choices: Iterator[tuple[tuple[bool, ...], tuple[int, ...]]]
        if num_combinations <= most:
            kept = itertools.product((True, False), repeat=len(changes))
            choices = itertools.product(kept, itertools.product(*(range(len(files[key])) for key in open_files)))
        else:
            ends = [((False,) * len(changes), lost), ((True,) * len(changes), lost)]
            drawn = (
                (
                    tuple(random.random() < 0.5 for _ in changes),
                    tuple(random.randrange(len(files[key])) for key in open_files),
                )
                for _ in range(max(0, most - len(ends)))
            )
            choices = itertools.chain(ends[:most], drawn)
        for names, contents in choices:
            chosen = dict(zip(open_files, contents, strict=True))
            taken = {change for change, taken in zip(changes, names, strict=True) if taken}
            yield _tree(
                self.root,
                partial(_names_after_a_cut, taken=taken),
                lambda file, chosen=chosen: files[id(file)][chosen.get(id(file), 0)],  # type: ignore[misc]
            )

    def _nodes(self) -> list[Node]:
        """Everything that has a name, or may have one again after a power cut."""
        seen: dict[int, Node] = {}
        waiting: list[Node] = [self.root]
        while waiting:
            node = waiting.pop()
            if id(node) not in seen:
                seen[id(node)] = node
                if isinstance(node, Folder):
                    waiting += [*node.entries.values(), *node.durable.values()]
                    waiting += [child for change in node.pending for _, child, _ in change]
        return list(seen.values())


def _names_after_a_cut(folder: Folder, taken: set[tuple[Folder, int]]) -> dict[str, Node]:
    names = folder.durable
    for number, change in enumerate(folder.pending):
        if (folder, number) in taken:
            names = _changed(names, change)
    return names


def _changed(entries: dict[str, Node], names: Change) -> dict[str, Node]:
    """Names after a change; one is taken away only from the node that was meant."""
    after = dict(entries)
    for name, node, given in names:
        if given:
            after[name] = node
        elif after.get(name) is node:
            del after[name]
    return after


def written(content: bytes, offset: int, data: bytes) -> bytes:
    """A file after a write at a place; an empty one at 0 stands for a truncation to nothing."""
    if offset == 0 and not data:
        return b""
    return content[:offset].ljust(offset, b"\0") + data + content[offset + len(data) :]


def _tree(
    folder: Folder,
    entries_of: Callable[[Folder], dict[str, Node]],
    content_of: Callable[[File], bytes],
    above: str = "",
) -> Tree:
    tree: Tree = {}
    for name, node in entries_of(folder).items():
        if isinstance(node, File):
            tree[above + name] = content_of(node)
        else:
            tree[above + name] = None
            tree |= _tree(node, entries_of, content_of, f"{above}{name}/")
    return tree
