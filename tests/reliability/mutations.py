"""Changes that a hostile author, or chance, makes to a file: in its structure, and byte by byte."""

from __future__ import annotations

import contextlib
import json
import random
import string
import struct
import sys
import warnings
import zipfile
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import google_crc32c

DEEP = 900
_TEXTS = ("", "../../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "x" * 5000, "00001.shard", "__class__", "topk")


def value(chance: random.Random) -> Any:
    """A JSON value of another type or size than anybody expects."""
    kind = chance.randrange(9)
    if kind == 0:
        return chance.choice([None, True, False, [], {}, [[]], {"": {}}])
    if kind == 1:
        return chance.choice([-1, 0, 1, 2**31, 2**63, 2**64, 10**30, 10**400, -(10**18)])
    if kind == 2:
        return chance.choice([0.5, -0.0, 1e308, 5e-324, 1.0, float("nan"), float("inf"), float("-inf")])
    if kind == 3:
        return chance.choice(_TEXTS)
    if kind == 4:
        return [value(chance) for _ in range(chance.randrange(4))]
    if kind == 5:
        return {chance.choice(string.ascii_letters): value(chance) for _ in range(chance.randrange(4))}
    if kind == 6:
        return nested(chance.choice([10, 100, DEEP]))
    return chance.randrange(-100, 10_000) if kind == 7 else chance.random()


def nested(depth: int) -> Any:
    """Lists in lists."""
    found: Any = []
    for _ in range(depth):
        found = [found]
    return found


@contextlib.contextmanager
def deep() -> Iterator[None]:
    """In the block, JSON may be nested deeper than Python's own limit: changes are made within changes."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(20 * DEEP)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def change_json(tree: dict[str, Any], chance: random.Random) -> None:
    """Change one place of a JSON object: a value, a type, a key, a number of items."""
    holders = list(_holders(tree))
    holder = chance.choice(holders)
    keys: list[Any] = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    if not keys:
        return
    key, kind = chance.choice(keys), chance.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[chance.choice(["x", key + "x", "__proto__", ""])] = holder.pop(key)
    elif kind == 1:
        holder.append(holder[key])
    elif kind == 2 and isinstance(holder[key], int | float):
        holder[key] = chance.choice([-holder[key], holder[key] + 1, _as_float(holder[key]), str(holder[key])])
    elif kind == 3:
        holder[key] = chance.choice([[holder[key]], {"value": holder[key]}, json.dumps(holder[key])])
    else:
        holder[key] = value(chance)


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return 1e308


def _holders(tree: Any) -> Iterator[Any]:
    waiting = [tree]
    while waiting:
        here = waiting.pop()
        if isinstance(here, dict | list):
            yield here
            waiting.extend(here.values() if isinstance(here, dict) else here)


def json_text(tree: Any, chance: random.Random) -> bytes:
    """As JSON, now and then with a key that appears twice."""
    text = json.dumps(tree)
    if isinstance(tree, dict) and tree and chance.random() < 0.1:
        key = chance.choice(list(tree))
        text = f"{{{json.dumps(key)}: {json.dumps(value(chance))}, {text[1:]}"
    return text.encode()


def change_bytes(data: bytes, chance: random.Random) -> bytes:
    """Flip, cut, repeat, insert or zero a few bytes."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        at = chance.randrange(len(changed) + 1)
        stop, kind = at + chance.choice([1, 2, 4, 16, 200]), chance.randrange(6)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del changed[at:stop]
        elif kind == 2:
            changed[at:at] = changed[at:stop]
        elif kind == 3:
            changed[at:at] = chance.randbytes(stop - at)
        elif kind == 4:
            changed[at:stop] = bytes(len(changed[at:stop]))
        else:
            changed[at:stop] = chance.choice([b"\xff" * 4, b"\xff\xff\xff\x7f", b"{", b"[", b'"', b"\0" * 8])
    return bytes(changed)


def change_zip(data: bytes, chance: random.Random) -> bytes:
    """A zip that is sound as a zip, with other entries: named, sized, stored or packed otherwise."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    at, kind = chance.randrange(len(entries)), chance.randrange(7)
    name, content = entries[at]
    method = zipfile.ZIP_STORED
    if kind == 0:
        entries[at] = (chance.choice(["../x", "/etc/x", name + "/0", name.upper(), "zarr.json" * 20]), content)
    elif kind == 1:
        entries.insert(at, entries[chance.randrange(len(entries))])
    elif kind == 2:
        del entries[at]
    elif kind == 3:
        method, entries[at] = zipfile.ZIP_DEFLATED, (name, bytes(2**20))
    elif name.endswith("zarr.json"):
        tree = json.loads(content)
        change_json(tree, chance)
        entries[at] = (name, json.dumps(tree).encode())
    else:
        entries[at] = (name, _change_chunk(content, chance))
    made = BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w") as archive:
        warnings.simplefilter("ignore")  # a name that is there twice is what is wanted
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, compress_type=method)
    return made.getvalue()


def _change_chunk(packed: bytes, chance: random.Random) -> bytes:
    """Other packed bytes, with the checksum that belongs to them: it is the unpacker that sees them."""
    content = packed[:-4]
    if chance.random() < 0.3:  # a blosc or zstd header that claims another size
        content = content[:4] + struct.pack("<I", chance.choice([0, 1, 2**31, 2**32 - 1])) + content[8:]
    else:
        content = change_bytes(content, chance)
    return content + struct.pack("<I", google_crc32c.value(content))


def change_safetensors(data: bytes, chance: random.Random) -> bytes:
    """Another header, of the length it says, or of another."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change_json(header, chance)
    text = json_text(header, chance)
    claimed = chance.choice([len(text)] * 5 + [0, 2**63, 2**32, len(text) + 1])
    return struct.pack("<Q", claimed) + text + data[8 + length :]
