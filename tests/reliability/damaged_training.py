"""What can happen to the checkpoints of a training that was stopped, and the law they are held to."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_safetensors

from pipeline.distill.keeping.checkpoint import newest_checkpoint
from tests.reliability.damaging import Place, Victim, harms_of, swap, within

OLDER, NEWEST, BEST = "step-00000004", "step-00000008", "best-00000006"
TENSORS = ("weights", "average", "optimizer", "router")
FILES = (*(f"{name}.safetensors" for name in TENSORS), "state.json", "COMMIT.json")


def places(checkpoints: Path, other: Path) -> list[Place]:
    """Every way to damage the checkpoints of a training, in a fixed order; `other` holds those of another training."""
    found = []
    folders = {"newest": (NEWEST, FILES), "older": (OLDER, FILES[-2:]), "best": (BEST, (FILES[0], *FILES[-2:]))}
    for which, (folder, names) in folders.items():
        for name in names:
            harms = within(folder, harms_of(name, [checkpoints / folder / name]))
            found += [Place(f"{harm.name}, of the {which}", harm.harm) for harm in harms]
    return [*found, *_of_whole_folders(other)]


def _of_whole_folders(other: Path) -> list[Place]:
    def swapped(folder: Path, chance: random.Random) -> list[str]:
        name = chance.choice(FILES)
        swap(folder, f"{OLDER}/{name}", f"{NEWEST}/{name}")
        return [f"{OLDER}/{name}", f"{NEWEST}/{name}"]

    def folders_swapped(folder: Path, chance: random.Random) -> list[str]:
        swap(folder, OLDER, NEWEST)
        return []

    def stale_file(folder: Path, chance: random.Random) -> list[str]:
        name = chance.choice(FILES)
        shutil.copyfile(other / NEWEST / name, folder / NEWEST / name)
        return [f"{NEWEST}/{name}"]

    def stale(folder: Path, chance: random.Random) -> list[str]:
        shutil.rmtree(folder / NEWEST)
        shutil.copytree(other / NEWEST, folder / NEWEST)
        return []

    def unfinished(folder: Path, chance: random.Random) -> list[str]:
        left = chance.sample(FILES[:-1], chance.randrange(1, 4))
        (folder / "step-00000012").mkdir()
        for name in left:
            content = (folder / NEWEST / name).read_bytes()
            (folder / "step-00000012" / name).write_bytes(content[: chance.randrange(len(content))])
        return []

    def gone(folder: Path, chance: random.Random) -> list[str]:
        shutil.rmtree(folder / chance.choice([NEWEST, OLDER, BEST]))
        return []

    def both(folder: Path, chance: random.Random) -> list[str]:
        names = [f"{step}/{chance.choice(FILES)}" for step in (OLDER, NEWEST)]
        for name in names:
            (folder / name).write_bytes((folder / name).read_bytes()[:-1])
        return names

    def extra(folder: Path, chance: random.Random) -> list[str]:
        (folder / NEWEST / "more.safetensors").write_bytes(chance.randbytes(100))
        (folder / "step-none").mkdir()
        (folder / "step-none" / "notes.txt").write_bytes(b"step by step")
        return []

    return [
        Place("file swapped between checkpoints", swapped),
        Place("checkpoints swapped", folders_swapped),
        Place("file of another training", stale_file),
        Place("checkpoint of another training", stale),
        Place("unfinished checkpoint", unfinished),
        Place("missing checkpoint", gone),
        Place("both checkpoints", both),
        Place("extra files among checkpoints", extra),
    ]


def whole_steps(victim: Victim, checkpoints: Path) -> list[int]:
    """Steps of which a checkpoint is as it was, under whatever name of one; of COMMIT.json what it says counts."""
    content = {
        int(name.rpartition("-")[2]): {file: _said(file, victim.whole[checkpoints / name / file]) for file in FILES}
        for name in (OLDER, NEWEST)
    }
    folders = [
        {path.name: _said(path.name, path.read_bytes()) for path in folder.iterdir()}
        for folder in checkpoints.glob("step-*")
    ]
    return sorted(step for step, files in content.items() if any(files.items() <= found.items() for found in folders))


def _said(name: str, content: bytes) -> Any:
    if name == "COMMIT.json":
        with contextlib.suppress(ValueError):
            return json.loads(content)
    return content


def says_the_same(victim: Victim, checkpoints: Path, name: str) -> bool:
    """Whether other bytes of a COMMIT.json are the same JSON: the checkpoint is as whole as it was."""
    path = checkpoints / name
    return path.is_file() and _said(path.name, path.read_bytes()) == _said(path.name, victim.whole[path])


def check_newest(victim: Victim, checkpoints: Path, place: Place) -> int | None:
    """The newest whole checkpoint is found, with the state and tensors it was saved with; returns its step."""
    whole = whole_steps(victim, checkpoints)
    found = newest_checkpoint([checkpoints])
    if place.name == "checkpoint of another training":
        assert found is not None
        return found.step
    assert (found is None) == (not whole), whole
    if found is None:
        return None
    assert found.step == whole[-1] or (place.name == "checkpoints swapped" and found.step in whole), (found, whole)
    origin = checkpoints / f"step-{found.step:08d}"
    assert found.state == json.loads(victim.whole[origin / "state.json"])
    for name in TENSORS:
        right = load_safetensors(victim.whole[origin / f"{name}.safetensors"])
        read: Mapping[str, Any] = found.tensors(name)
        assert read.keys() == right.keys()
        assert all(read[key].equal(right[key]) for key in right), name
    return found.step
