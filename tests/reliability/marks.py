"""Marks that are written last: a seal, a COMMIT.json, a plan. Where one is, all that it speaks of is there and whole.

Checked by reading the bytes of a disk, with nothing of the product: readers would refuse what does not fit, and so hide
that a mark came too early.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator

import xxhash

from tests.reliability.volume import Tree


def broken_marks(tree: Tree) -> str:
    """What is named by a mark on this disk and is not as the mark says; empty if all of it is."""
    lines = []
    for path, content in sorted(tree.items()):
        if content is None or "/." in f"/{path}":  # what has a temporary name, or is below one, counts for nobody
            continue
        try:
            spoken_of = list(_spoken_of(path, json.loads(content) if path.endswith(".json") else {}))
        except ValueError:
            spoken_of = [(path, "not the bytes of a half-written mark")]
        lines += [f"{path} is there, and {name} is not as it says" for name, digest in spoken_of
                  if name not in tree or digest not in (None, _digest(tree[name]))]  # fmt: skip
    return "\n".join(lines)


def _spoken_of(path: str, value: dict[str, object]) -> Iterator[tuple[str, str | None]]:
    """(path, xxh3-128 if the mark names one) of all that a mark speaks of; nothing of other files."""
    folder, name = posixpath.split(path)
    if name.endswith(".seal.json"):
        yield f"{folder}/{value['shard']}", str(value["xxh3_128"])
    elif name == "COMMIT.json":
        yield from ((f"{folder}/{of}", entry["xxh3_128"]) for of, entry in value.items())  # type: ignore[index]
    elif name == "plan.json":
        yield f"{folder}/sequences.shard", str(value["sequences_digest"])
        yield from ((f"{folder}/{of}", None) for of in ("tokenizer/tokenizer.json", "data_report.json"))


def _digest(content: bytes | None) -> str:
    return xxhash.xxh3_128_hexdigest(content or b"")
