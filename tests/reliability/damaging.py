"""Ways to damage the files of a run, at every region of every kind of file, and a folder that heals again."""

from __future__ import annotations

import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PAGE_BYTES = 4096


class Victim:
    """A folder that is damaged again and again, and put back in between."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.whole = {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

    def changed(self) -> set[str]:
        """Files that are not as they were, from the root: other bytes, gone, or new."""
        now = {path: path.read_bytes() for path in self.root.rglob("*") if path.is_file()}
        return {
            str(path.relative_to(self.root))
            for path in now.keys() | self.whole.keys()
            if now.get(path) != self.whole.get(path)
        }

    def heal(self) -> None:
        """Every file as it was, and no other."""
        for path in sorted(self.root.rglob("*"), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
            elif path.is_file() and path not in self.whole:
                path.unlink()
        for path, content in self.whole.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file() or path.read_bytes() != content:
                path.write_bytes(content)


@dataclass(frozen=True)
class Place:
    """One way to damage a folder; `harm` does it and returns the files it harmed, from the folder."""

    name: str
    harm: Callable[[Path, random.Random], list[str]] = field(repr=False)


# ------------------------------------------------------------------ regions


def regions(path: Path) -> dict[str, list[range]]:
    """Where the parts of a file lie, by what they are; together they cover all of it."""
    data = path.read_bytes()
    if data[:2] == b"PK":
        return _zip_regions(path, len(data))
    if path.suffix == ".safetensors":
        header = 8 + int(struct.unpack("<Q", data[:8])[0])
        return {"header length": [range(8)], "header": [range(8, header)], "body": [range(header, len(data))]}
    return _text_regions(data)


def _zip_regions(path: Path, size: int) -> dict[str, list[range]]:
    found: dict[str, list[range]] = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            start = entry.header_offset + 30 + len(entry.filename)  # our writer adds no extra field
            array, _, key = entry.filename.rpartition("zarr.json")
            name = f"chunks of {entry.filename.split('/')[0]}" if key else f"metadata of {array.strip('/') or 'group'}"
            found.setdefault("entry headers", []).append(range(entry.header_offset, start))
            found.setdefault(name, []).append(range(start, start + entry.file_size))
        found["directory"] = [range(archive.start_dir, size - 22)]
    found["end record"] = [range(size - 22, size)]
    assert sum(len(part) for parts in found.values() for part in parts) == size, path
    return found


def _text_regions(data: bytes) -> dict[str, list[range]]:
    """Of readable JSON: each key at the top; of other texts: one region."""
    marks = [(found.start(), found[1].decode()) for found in re.finditer(rb'^  "(\w+)"', data, re.MULTILINE)]
    if not marks or not data.startswith(b"{"):
        return {"text": [range(len(data))]}
    edges = [0, *(start for start, _ in marks[1:]), len(data)]
    return {name: [range(edges[i], edges[i + 1])] for i, (_, name) in enumerate(marks)}


# ------------------------------------------------------------------ harm to one file


def harms_of(kind: str, paths: list[Path]) -> list[Place]:
    """All ways to harm one file of a kind, of which `paths` (in one folder, of equal structure) are samples."""
    relative = [path.name for path in paths]
    flips = [Place(f"flip {kind}, {region}", _flip(relative, region)) for region in regions(paths[0])]
    others: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
        "zeroed page": _zero_page,
        "truncated": lambda data, chance: data[: chance.randrange(len(data))],
        "emptied": lambda data, chance: b"",
        "lengthened": lambda data, chance: data + chance.randbytes(chance.choice([1, 22, PAGE_BYTES])),
        "missing": lambda data, chance: None,
    }
    return flips + [Place(f"{name} {kind}", _rewrite(relative, change)) for name, change in others.items()]


def _flip(names: list[str], region: str) -> Callable[[Path, random.Random], list[str]]:
    def harm(folder: Path, chance: random.Random) -> list[str]:
        name = chance.choice(names)
        data = bytearray((folder / name).read_bytes())
        at = chance.choice(chance.choice(regions(folder / name)[region]))
        data[at] ^= 1 << chance.randrange(8)
        (folder / name).write_bytes(data)
        return [name]

    return harm


def _rewrite(
    names: list[str], change: Callable[[bytes, random.Random], bytes | None]
) -> Callable[[Path, random.Random], list[str]]:
    def harm(folder: Path, chance: random.Random) -> list[str]:
        name = chance.choice(names)
        changed = change((folder / name).read_bytes(), chance)
        (folder / name).unlink() if changed is None else (folder / name).write_bytes(changed)
        return [name]

    return harm


def _zero_page(data: bytes, chance: random.Random) -> bytes:
    """A page that never reached the disk; some byte of it was not zero."""
    pages = [at for at in range(0, len(data), PAGE_BYTES) if any(data[at : at + PAGE_BYTES])]
    at = chance.choice(pages)
    return data[:at] + bytes(len(data[at : at + PAGE_BYTES])) + data[at + PAGE_BYTES :]


def within(prefix: str, places: list[Place]) -> list[Place]:
    """The same harms, in a folder below."""

    def below(place: Place) -> Callable[[Path, random.Random], list[str]]:
        return lambda folder, chance: [f"{prefix}/{name}" for name in place.harm(folder / prefix, chance)]

    return [Place(place.name, below(place)) for place in places]


# ------------------------------------------------------------------ harm to several


def swap(folder: Path, one: str, other: str) -> None:
    """Two files, or folders, under each other's names."""
    (folder / one).rename(folder / "swapped")
    (folder / other).rename(folder / one)
    (folder / "swapped").rename(folder / other)


def other_tokenizer(path: Path) -> None:
    """Two letters change their ids: a tokenizer that loads, and gives every text other tokens."""
    value = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = value["model"]["vocab"]
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
    path.write_text(json.dumps(value), encoding="utf-8")
