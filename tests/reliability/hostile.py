"""Files that a hostile author made: what is attacked, what opens it, and what must come of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from pipeline import files
from pipeline.cache import TeacherCache
from pipeline.cache.verify import verify_cache
from pipeline.config import dump_config, keys_of_kind
from pipeline.data.report import DataReport
from pipeline.distill.keeping.checkpoint import newest_checkpoint, save_checkpoint
from pipeline.errors import IncompleteInputError
from stages.config import RunConfig, load_run_config
from tests.cache.dense import make_cache
from tests.reliability import mutations

STATE = {"training": {"plan": "0" * 64, "train": {"steps": 12}}, "training_hash": "0" * 64, "best": None}
CONFIG: dict[str, Any] = {
    "name": "toy",
    "data": {"source": "text", "path": "texts", "sequence_length": 32},
    "teacher": {"model": "teacher"},
    "cache": {"head_size": 16, "kind": "topk", "roots": ["a"]},
    "student": {"config": {"model_type": "llama", "hidden_size": 16}},
    "train": {"steps": 12, "learning_rate": 1e-3, "adam_betas": [0.9, 0.95], "temperature": {"start": 2}},
    "eval": {"baselines": {"one": "folder"}},
}
ATTACKS = (
    "!!python/object/apply:os.system ['true']",
    "!!python/name:os.system",
    "!!timestamp x",
    "!!int x",
    "!!bool maybe",
    "!!binary '*'",
    "!!set {a, b}",
    "&a [*a, *a]",
    "*unknown",
    "{<<: {a: 1}, <<: [1]}",
    "? [a]\n: b",
    ".nan",
    "-.inf",
    "0x" + "f" * 50,
    "1:59:59:59",
    "9" * 5000,
    "[" * 400,
)


@dataclass(frozen=True)
class Target:
    """A file, the ways to change it, and what reads it."""

    name: str
    path: Path
    change: Callable[[bytes, random.Random], bytes]
    read: Callable[[], Any]
    forged: bool = False
    """whether its checksums are made to fit: then it may as well hold other data"""


def lay_out(folder: Path) -> None:
    """A tiny cache, a checkpoint, a data report and a config."""
    make_cache(folder / "cache")
    files.write_json(folder / "cache" / "data_report.json", DataReport(documents_read=3).to_json())
    tensors = {name: {"a.weight": torch.arange(6.0).reshape(2, 3)} for name in ("weights", "average", "optimizer")}
    save_checkpoint(folder / "checkpoints", "step", 4, tensors, STATE)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")


def targets(folder: Path) -> list[Target]:
    """Everything that is fuzzed, in a fixed order."""
    cache, step = folder / "cache", folder / "checkpoints" / "step-00000004"

    def of_cache() -> Any:
        return read_cache(cache)

    def checked() -> Any:
        return verify_and_read(cache)

    def of_checkpoint() -> Any:
        return read_checkpoint(folder / "checkpoints")

    found = []
    for name in ("plan.json", "shards/00001.seal.json"):
        found += [
            Target(f"{name}, bytes", cache / name, mutations.change_bytes, of_cache),
            Target(f"{name}, structure", cache / name, _json, checked),
            Target(f"{name}, signed", cache / name, _signed(name), checked, forged=True),
        ]
    for name in ("sequences.shard", "shards/00001.shard"):
        found += [
            Target(f"{name}, bytes", cache / name, mutations.change_bytes, of_cache),
            Target(f"{name}, entries", cache / name, mutations.change_zip, checked, forged=True),
        ]
    for name in ("COMMIT.json", "state.json", "weights.safetensors"):
        found.append(Target(f"{name}, bytes", step / name, mutations.change_bytes, of_checkpoint))
    found += [
        Target("COMMIT.json, structure", step / "COMMIT.json", _json, of_checkpoint, forged=True),
        Target("state.json, signed", step / "state.json", _json, of_checkpoint, forged=True),
        Target("weights, signed", step / "weights.safetensors", mutations.change_safetensors, of_checkpoint, True),
        Target("data report", cache / "data_report.json", _json, lambda: read_report(cache), forged=True),
        Target("config, structure", folder / "config.yaml", _yaml, lambda: read_config(folder), forged=True),
        Target("config, attacks", folder / "config.yaml", _attack, lambda: read_config(folder), forged=True),
    ]
    return found


def sign(target: Target) -> list[Path]:
    """Make the checksums beside a forged file fit it: what is attacked then is what comes behind them.

    Returns the other files that this changed.
    """
    folder, name = target.path.parent, target.path.name
    if name in ("sequences.shard", "plan.json"):
        plan = json.loads((folder / "plan.json").read_bytes())
        if name == "sequences.shard":
            plan["sequences_digest"] = files.digest_file(target.path).xxh3_128
            (folder / "plan.json").write_bytes(hashed(plan))
        seals = list((folder / "shards").glob("*.seal.json"))
        for seal in seals:
            _sign_seal(seal, plan_hash=hashlib.sha256(_canonical(_content(plan))).hexdigest())
        return [folder / "plan.json", *seals]
    if name.endswith(".shard"):
        seal, digest = target.path.with_name(name.replace(".shard", ".seal.json")), files.digest_file(target.path)
        _sign_seal(seal, size_bytes=digest.size_bytes, xxh3_128=digest.xxh3_128)
        return [seal]
    if folder.parent.name == "checkpoints" and name != "COMMIT.json":
        commit = json.loads((folder / "COMMIT.json").read_bytes())
        digest = files.digest_file(target.path)
        commit[name] = {"size_bytes": digest.size_bytes, "xxh3_128": digest.xxh3_128}
        (folder / "COMMIT.json").write_text(json.dumps(commit), encoding="utf-8")
        return [folder / "COMMIT.json"]
    return []


def _sign_seal(path: Path, **changes: Any) -> None:
    path.write_bytes(_with_digest(json.loads(path.read_bytes()) | changes))


# ------------------------------------------------------------------ readers


def read_cache(folder: Path) -> Any:
    """All that a cache gives."""
    with TeacherCache.open(folder) as cache:
        sequences, records = cache.read(np.arange(len(cache)))
        repr(cache.statistics)
        for span in cache.plan.shards:
            cache.facts(span)
        parts = [sequences.input_ids, sequences.loss_mask, sequences.num_bytes, *records.fields()]
        return [part.tobytes() for part in parts]


def verify_and_read(folder: Path) -> Any:
    """The same, after verify, which must not fall over what readers refuse."""
    with contextlib.suppress(IncompleteInputError):
        verify_cache(folder, (), None, DataReport.load)
    return read_cache(folder)


def read_checkpoint(folder: Path) -> Any:
    """The newest checkpoint and its tensors; None where there is none that is whole."""
    found = newest_checkpoint([folder], lambda state: state["training"]["plan"] is not None)
    if found is None:
        return None
    tensors = {name: found.tensors(name) for name in ("weights", "average", "optimizer") if found.holds(name)}
    return found.state, [tensor.numpy().tobytes() for part in tensors.values() for tensor in part.values()]


def read_report(folder: Path) -> Any:
    """The data report, as the page shows it."""
    return DataReport.load(folder / "data_report.json").summary_lines()


def read_config(folder: Path) -> Any:
    """A config, and what a run does with it before anything else."""
    config: RunConfig = load_run_config(str(folder / "config.yaml"))
    files.canonical_json(keys_of_kind(config, "identity") | keys_of_kind(config, "schedule"))
    return dump_config(config)


# ------------------------------------------------------------------ changes


def _json(data: bytes, chance: random.Random) -> bytes:
    tree = json.loads(data)
    for _ in range(chance.choice([1, 1, 2])):
        mutations.change_json(tree, chance)
    return mutations.json_text(tree, chance)


def hashed(plan: dict[str, Any]) -> bytes:
    """A plan with the hash that its content has."""
    content = _content(plan)
    return json.dumps(content | {"hash": hashlib.sha256(_canonical(content)).hexdigest()}).encode()


def _content(plan: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plan.items() if key != "hash"}


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _signed(name: str) -> Callable[[bytes, random.Random], bytes]:
    def change(data: bytes, chance: random.Random) -> bytes:
        tree = json.loads(data)
        mutations.change_json(tree, chance)
        if name == "plan.json":
            return hashed(tree)
        return _with_digest(tree)

    return change


def _with_digest(seal: dict[str, Any]) -> bytes:
    content = {key: value for key, value in seal.items() if key != "digest"}
    return json.dumps(seal | {"digest": files.digest_bytes(_canonical(content)).xxh3_128}).encode()


def _yaml(data: bytes, chance: random.Random) -> bytes:
    tree = json.loads(json.dumps(CONFIG))
    mutations.change_json(tree, chance)
    return json.dumps(tree).encode()  # JSON is YAML, and nested as deeply as it is


def _attack(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.3:
        return mutations.change_bytes(data, chance)
    lines = data.decode().splitlines()
    at = chance.randrange(len(lines))
    head, colon, _ = lines[at].partition(":")
    lines[at] = f"{head}{colon} {chance.choice(ATTACKS)}"
    return "\n".join(lines).encode()
