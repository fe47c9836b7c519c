"""Hostile files made by hand: each a function that lays its trap in a folder, and returns what steps into it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace as changed
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml

from pipeline.cache.codec import codec_of
from pipeline.cache.plan import Plan
from pipeline.cache.seal import Seal
from pipeline.cache.shard import _metadata
from pipeline.cache.writer import shard_attributes
from pipeline.data.planned_tokenizer import planned_tokenizer
from pipeline.distill.keeping.checkpoint import newest_checkpoint
from tests.reliability import hostile

Read = Callable[[], Any]
Case = Callable[[Path], Read]
STEP = Path("checkpoints") / "step-00000004"
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
MERGES = "a0: &a0 {k: v}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 10))


class Executes:
    """A pickle that leaves a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def lay_traps(folder: Path) -> None:
    """What must never be opened: good files, outside of every root."""
    if not (folder / "outside").is_dir():
        hostile.lay_out(folder / "outside")


# ------------------------------------------------------------------ kinds of traps


def config(text: str) -> Case:
    """A config of this text."""

    def case(root: Path) -> Read:
        (root / "config.yaml").write_text(text, encoding="utf-8")
        return lambda: hostile.read_config(root)

    return case


def with_key(line: str) -> Case:
    """The good config with one more line."""
    return config(yaml.safe_dump(hostile.CONFIG) + line)


def plan(**values: Any) -> Case:
    """A plan of these values, with the hash that belongs to it, and seals that name it."""

    def case(root: Path) -> Read:
        path = root / "cache" / "plan.json"
        tree = json.loads(path.read_bytes())
        for name, value in values.items():
            if name in tree:
                tree[name] = value
            else:
                tree["layout"][name] = value
        path.write_bytes(hostile.hashed(tree))
        for seal in path.parent.glob("shards/*.seal.json"):
            changed(Seal.load(seal), plan_hash=json.loads(path.read_bytes())["hash"]).save(seal)
        return lambda: hostile.verify_and_read(root / "cache")

    return case


def agreeing(**values: Any) -> Case:
    """A plan of these values, and shards whose metadata are those that it asks for."""

    def case(root: Path) -> Read:
        read = plan(**values)(root)
        forged = Plan.load(root / "cache" / "plan.json")
        for span in forged.shards:
            path = root / "cache" / "shards" / span.shard_name
            metadata = _metadata(codec_of(forged).schema(span.count), shard_attributes(forged, span))
            with zipfile.ZipFile(path) as archive:
                entries = {name: metadata.get(name, archive.read(name)) for name in archive.namelist()}
            with zipfile.ZipFile(path, "w") as archive:
                for name, data in entries.items():
                    archive.writestr(name, data)
            hostile.sign(hostile.Target(span.shard_name, path, lambda data, chance: data, lambda: None))
        return read

    return case


def content(name: str, data: bytes | Callable[[bytes], bytes], signed: bool = False) -> Case:
    """A file of these bytes, now and then with checksums that fit."""

    def case(root: Path) -> Read:
        path = root / name
        path.write_bytes(data(path.read_bytes()) if callable(data) else data)
        if signed:
            hostile.sign(hostile.Target(name, path, lambda data, chance: data, lambda: None))
        return reader(root, name)

    return case


def link(name: str) -> Case:
    """A symbolic link in place of a file or folder, to the same one outside."""

    def case(root: Path) -> Read:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to(root.parent / "outside" / name)
        return reader(root, name)

    return case


def pipe(name: str) -> Case:
    """A pipe, from which nothing ever comes."""

    def case(root: Path) -> Read:
        (root / name).unlink()
        os.mkfifo(root / name)
        return reader(root, name)

    return case


def sparse(name: str) -> Case:
    """A file of a terabyte of zeros that takes no room."""

    def case(root: Path) -> Read:
        os.truncate(root / name, 2**40)
        return reader(root, name)

    return case


def reader(root: Path, name: str) -> Read:
    """What reads a file of this name."""
    if name.startswith("checkpoints"):
        return lambda: hostile.read_checkpoint(root / "checkpoints")
    return (
        (lambda: hostile.read_config(root))
        if name.startswith("config")
        else lambda: hostile.verify_and_read(root / "cache")
    )


def pickled(name: str, signed: bool = False) -> Case:
    """A pickle in place of a file."""

    def case(root: Path) -> Read:
        return content(name, pickle.dumps(Executes(root.parent / "executed")), signed)(root)

    return case


def _commit(entry: str) -> Case:
    def change(data: bytes) -> bytes:
        tree = json.loads(data)
        tree[entry] = tree.pop("weights.safetensors")
        return json.dumps(tree).encode()

    return content(str(STEP / "COMMIT.json"), change)


def _seal(**values: Any) -> Case:
    def case(root: Path) -> Read:
        path = root / "cache" / "shards" / "00001.seal.json"
        changed(Seal.load(path), **values).save(path)
        return lambda: hostile.verify_and_read(root / "cache")

    return case


def _bomb(data: bytes) -> bytes:
    """The same entries, packed by the zip; one of them is a gigabyte of zeros once it is unpacked."""

    with zipfile.ZipFile(BytesIO(data)) as archive:
        names = archive.namelist()
        made = BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as bomb:
            for name in names:
                bomb.writestr(name, bytes(2**27) if name == names[0] else archive.read(name))
    return made.getvalue()


def _tokenizer_link(root: Path) -> Read:
    (root / "cache" / "tokenizer").symlink_to(root.parent / "outside" / "cache")
    return lambda: hostile.verify_and_read(root / "cache")


def _tokenizer_with_code(root: Path) -> Read:
    folder = root / "cache" / "tokenizer"
    folder.mkdir()
    names = {"tokenizer_class": "Trap", "auto_map": {"AutoTokenizer": ["trap.Trap", "trap.Trap"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    mark = root.parent / "executed"
    (folder / "trap.py").write_text(f"import os; os.mkdir({str(mark)!r})\nclass Trap: pass\n", encoding="utf-8")
    return lambda: planned_tokenizer(folder, {})


def _state_without_training(root: Path) -> Read:
    content(str(STEP / "state.json"), b'{"format": 1, "step": 4}', signed=True)(root)
    return lambda: newest_checkpoint([root / "checkpoints"], lambda state: state["training"]["plan"] == "x")


_DEEP = b'{"a":' * 5000 + b"1" + b"}" * 5000
_HUGE_HEADER = struct.pack("<Q", 2**60) + b"{}"
_HUGE_TENSOR = b'{"a.weight":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
_SPANS = [{"index": 0, "first": 0, "count": 10**15, "split": "train"}]
_SHARD, _SEAL, _SEQUENCES = "cache/shards/00001.shard", "cache/shards/00001.seal.json", "cache/sequences.shard"
_WEIGHTS, _STATE, _COMMIT = (str(STEP / name) for name in ("weights.safetensors", "state.json", "COMMIT.json"))

CASES: dict[str, Case] = {
    "yaml: a billion laughs": config(LAUGHS),
    "yaml: a billion laughs in a key": config(LAUGHS.replace("a9:", "name:")),
    "yaml: merges of merges": config(MERGES),
    "yaml: a list that holds itself": with_key("name2: &a [*a]\n"),
    "yaml: code in a tag": with_key("x: !!python/object/apply:os.mkdir ['executed']\n"),
    "yaml: nested deeply": with_key("x: " + "[" * 20_000 + "\n"),
    "yaml: digits without end": with_key("x: " + "9" * 100_000 + "\n"),
    "yaml: a date that is none": with_key("x: !!timestamp x\n"),
    "yaml: a boolean that is none": with_key("x: !!bool maybe\n"),
    "yaml: key twice": with_key("name: other\n"),
    "yaml: NaN where anything goes": config(
        yaml.safe_dump(hostile.CONFIG).replace("hidden_size: 16", "hidden_size: .nan")
    ),
    "yaml: a terabyte": sparse("config.yaml"),
    "yaml: not UTF-8": content("config.yaml", b"\xff\xfe\x00name: x"),
    "plan: sequences without end": plan(num_sequences=10**15, shards=_SPANS),
    "plan: a sequence without end": plan(sequence_length=10**15),
    "plan: a sequence as long as memory": plan(sequence_length=2**33),
    "plan: head without end": plan(vocab_size=2**31, head_size=2**31 - 1),
    "plan: a head as large as memory, and shards that agree": agreeing(vocab_size=2**31, head_size=2**26),
    "plan: a sequence without end, and shards that agree": agreeing(sequence_length=2**45),
    "plan: draws without end": plan(num_draws=10**18),
    "plan: a beta beyond numbers": plan(draw_beta=10**400),
    "plan: a length that is text": plan(sequence_length="16"),
    "plan: a length that is no integer": plan(sequence_length=16.0),
    "plan: an identity that is a list": plan(identity=[1]),
    "plan: nested deeply": content("cache/plan.json", _DEEP),
    "plan: a pickle": pickled("cache/plan.json"),
    "plan: key twice": content("cache/plan.json", lambda data: b'{"format": 2,' + data.lstrip()[1:]),
    "plan: NaN": content("cache/plan.json", lambda data: data.replace(b"0.7", b"NaN")),
    "plan: a terabyte": sparse("cache/plan.json"),
    "plan: a link out": link("cache/plan.json"),
    "seal: a link out": link(_SEAL),
    "seal: a pipe": pipe(_SEAL),
    "seal: nested deeply": content(_SEAL, _DEEP),
    "seal: another shard's path": _seal(shard="../../outside/cache/shards/00001.shard"),
    "seal: statistics of nothing": _seal(statistics={"num_scored": "x", "a_mean_b": None}),
    "seal: counts without end": _seal(count=10**18, first=10**18),
    "shard: a link out": link(_SHARD),
    "shard: a pipe": pipe(_SHARD),
    "shard: a bomb": content(_SHARD, _bomb, signed=True),
    "shard: a pickle": pickled(_SHARD, signed=True),
    "shards: the folder a link out": link("cache/shards"),
    "sequences: a link out": link(_SEQUENCES),
    "sequences: a terabyte": sparse(_SEQUENCES),
    "sequences: a bomb": content(_SEQUENCES, _bomb, signed=True),
    "tokenizer: a link out": _tokenizer_link,
    "tokenizer: code beside it": _tokenizer_with_code,
    "checkpoint: a pickle": pickled(_WEIGHTS, signed=True),
    "checkpoint: a header without end": content(_WEIGHTS, _HUGE_HEADER, signed=True),
    "checkpoint: a tensor without end": content(
        _WEIGHTS, struct.pack("<Q", len(_HUGE_TENSOR)) + _HUGE_TENSOR + bytes(64), signed=True
    ),
    "checkpoint: a path out": _commit("../../outside/checkpoints/step-00000004/weights.safetensors"),
    "checkpoint: an absolute path": _commit("/etc/hostname"),
    "checkpoint: weights a link out": link(_WEIGHTS),
    "checkpoint: state a link out": link(_STATE),
    "checkpoint: the folder a link out": link(str(STEP)),
    "checkpoint: state a pipe": pipe(_STATE),
    "checkpoint: a terabyte": sparse(_WEIGHTS),
    "checkpoint: state without a training": _state_without_training,
    "checkpoint: commit nested deeply": content(_COMMIT, _DEEP),
}
HARMLESS: tuple[str, ...] = ()
