"""The power fails at any operation: what was said to be safe is intact, and the same command gives the same bytes.

From the record of one straight run, the disks are built that a power cut may leave: what was not synced is there, gone,
torn or zeros, and new names are there or not, in any combination (see volume.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from pipeline.runs import RunDirectory
from tests.reliability.crashes import Crash
from tests.reliability.marks import broken_marks
from tests.reliability.points import ONLY, SEED, Share, again, shares
from tests.reliability.scenes import Acknowledged, Recording, Scene
from tests.reliability.shim import Shim
from tests.reliability.tally import LONG, Tally
from tests.reliability.trees import fingerprint, lay_out
from tests.reliability.volume import Operation, Tree, Volume

SCENES = ["capture", "training"]
METRICS = "run/student/metrics.jsonl"
CUTS = {"capture": 16, "training": 4} if LONG else {"capture": 6, "training": 3}  # an operation; all, where few
AT_LEAST = {"capture": 780, "training": 1220} if LONG else {"capture": 150, "training": 160}
MOST_NAMES = 100 if LONG else 5


def cuts(name: str, recording: Recording) -> Iterator[Crash]:
    """Every disk that the power failing between two operations may leave, each once."""
    volume, seen = Volume(recording.before), set[str]()
    for number, operation in enumerate(recording.operations):
        volume.apply(operation)
        for choice, tree in enumerate(volume.cuts(CUTS[name], Random(f"{SEED} {number}"))):
            if (state := fingerprint(tree)) not in seen:
                seen.add(state)
                yield Crash(f"{name}, {number + 1} cut {choice}", operation.kind, tree)


def lost(tree: Tree, recording: Recording, number: int) -> str:
    """What had been said to be safe after so many operations, and is not whole; empty if all is."""
    said = {made.name: made for made in recording.acknowledged if made.after <= number}
    lines = [
        f"{made.name} was said to be safe, and {path} {'has other bytes' if path in tree else 'is missing'}"
        for made in said.values()
        if not _let_go(made, list(said.values()), recording.operations[:number])
        for path, content in made.files.items()
        if tree.get(path) != content
    ]
    return "\n".join(lines)


def _let_go(made: Acknowledged, said: list[Acknowledged], operations: list[Operation]) -> bool:
    """Whether it was removed on purpose by then, as the newest checkpoint never is."""
    newest = [other.name for other in said if other.name.startswith("step")][-1:]
    removed = {operation.path for operation in operations[made.after :] if operation.kind == "unlink"}
    return made.name not in newest and any(path in removed for path in made.files)


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("share", shares(2, 8), ids=str)
def test_the_power_fails_at_any_operation(name: str, share: Share, scenes: dict[str, Scene], tally: Tally) -> None:
    scene = scenes[name]
    everywhere = list(cuts(name, scene.straight))
    assert len(everywhere) >= AT_LEAST[name]
    troubles, mine = [], list(share.take(everywhere))
    for cut in mine:
        number = int(cut.name.split(", ")[1].split()[0])
        if trouble := lost(cut.tree, scene.straight, number) or scene.trouble_after(cut.tree):
            troubles.append(f"{again('power', cut)}: after a {cut.kind}\n{trouble}")
        else:
            tally.point(f"{scene.stage} {cut.kind}")
    assert not troubles, "\n\n".join(troubles)
    assert ONLY or tally.points == len(mine) >= AT_LEAST[name] // share.of


@pytest.mark.parametrize("name", SCENES)
def test_a_mark_comes_after_all_that_it_speaks_of(name: str, scenes: dict[str, Scene], tally: Tally) -> None:
    """On every disk that a power cut leaves, before anything is done about it."""
    recording, troubles, num_cuts = scenes[name].straight, list[str](), 0
    metrics = (recording.after.get(METRICS) or b"").splitlines()
    for cut in cuts(name, recording):
        number, num_cuts = int(cut.name.split(", ")[1].split()[0]), num_cuts + 1
        wrong = lost(cut.tree, recording, number) or broken_marks(cut.tree) or _unlogged(cut.tree, metrics)
        troubles += [f"{cut}: after a {cut.kind}\n{wrong}"] if wrong else []
    assert not troubles, "\n\n".join(troubles)
    assert num_cuts >= AT_LEAST[name]
    tally.point(f"{name}: marks on all disks")


def _unlogged(tree: Tree, metrics: list[bytes]) -> str:
    """Lines of steps that a whole checkpoint has behind it, and that are not in the log; empty if all are."""
    steps = [int(path.split("step-")[1][:8]) for path in tree if "/step-" in path and path.endswith("/COMMIT.json")]
    logged = (tree.get(METRICS) or b"").splitlines()
    missing = [line for line in metrics if json.loads(line)["step"] <= max(steps, default=0) and line not in logged]
    return f"step {max(steps)} is saved, and not logged: {missing}" if missing else ""


@pytest.mark.parametrize("name", SCENES)
def test_killed_before_a_name_lasts_then_resumed_and_then_the_power_fails(
    name: str, scenes: dict[str, Scene], tally: Tally
) -> None:
    """What the next start finds need not last yet: it makes it so before it says of anything below that it is safe."""
    scene, troubles = scenes[name], list[str]()
    operations = scene.straight.operations
    for number in [number for number, operation in enumerate(operations) if _is_built_on(operation)][:MOST_NAMES]:
        volume, random = Volume(scene.straight.before), Random(f"{SEED} {number}")
        for operation in operations[: number + 1]:
            volume.apply(operation)
        resumed, wrong = scene.record(volume.tree()), ""
        for after, operation in enumerate(resumed.operations, 1):
            volume.apply(operation)
            wrong = wrong or next(filter(None, (lost(tree, resumed, after) for tree in volume.cuts(2, random))), "")
        if wrong := wrong or next(filter(None, map(scene.trouble_after, volume.cuts(2, random))), ""):
            troubles.append(f"{name}, killed after {number + 1}, {operations[number]}:\n{wrong}")
        else:
            tally.point(f"{scene.stage} resumed after a {operations[number].kind}")
    assert not troubles, "\n\n".join(troubles)
    assert tally.points >= 4


def test_killed_while_the_folders_above_a_run_are_made(tmp_path: Path) -> None:
    """Then the next start, and then the power fails: of all that it said was safe nothing may go with such a folder."""
    disk = tmp_path / "disk"

    def record(tree: Tree) -> list[Operation]:
        lay_out(disk, tree)
        shim = Shim(disk, tree)
        with shim.at_work(), RunDirectory(disk / "artifacts" / "mine" / "run").at_work("eval"):
            pass
        return shim.operations

    straight = record({})
    made = [number for number, operation in enumerate(straight) if operation.kind == "mkdir"]
    assert [straight[number].path for number in made] == ["artifacts", "artifacts/mine", "artifacts/mine/run"]
    for number in made:
        volume = Volume({})
        for operation in straight[: number + 1]:
            volume.apply(operation)
        for operation in record(volume.tree()):
            volume.apply(operation)
        assert all("artifacts/mine/run/status.json" in tree for tree in volume.cuts(100, Random(SEED)))


def _is_built_on(operation: Operation) -> bool:
    """Whether it gives a name that nothing gives once more: that of a folder, or of the plan."""
    return (operation.kind == "mkdir" and ".tmp" not in operation.path) or operation.target.endswith("plan.json")


def test_everything_is_said_to_be_safe_and_is(scenes: dict[str, Scene]) -> None:
    """The points above look at something: each shard, the plan, each checkpoint and the model were acknowledged."""
    capture, training = (scenes[name].straight for name in SCENES)
    shards = sum(path.endswith(".shard") for path in capture.after if "/shards/" in path)
    names = [made.name for made in capture.acknowledged]
    assert names[0] == "plan"
    assert sorted(names[1:]) == sorted(f"shard {number}" for number in range(shards))
    steps = range(2, 31 if LONG else 7, 2)
    assert [made.name for made in training.acknowledged if "step" in made.name] == [f"step {step}" for step in steps]
    assert training.acknowledged[-1].name == "model"
    for recording in (capture, training):
        assert all(made.files for made in recording.acknowledged)
        assert lost(recording.after, recording, len(recording.operations)) == ""
        assert "said to be safe" in lost({}, recording, len(recording.operations))


def test_a_cut_takes_what_was_not_synced_and_nothing_else() -> None:
    """The model of the disk: a file's bytes last from its own fsync, its name from the folder's."""
    volume, random = Volume({"old": b"old"}), Random(SEED)
    for operation in (Operation("create", "new"), Operation("write", "new", data=b"1234")):
        volume.apply(operation)
    left = list(volume.cuts(1000, random))
    assert {"old": b"old"} in left  # the name is lost
    contents = {tree["new"] for tree in left if "new" in tree}
    assert contents == {b"", b"1234", b"12", bytes(4), b"12\0\0"}
    volume.apply(Operation("fsync", "new"))
    assert list(volume.cuts(1000, random)) == [{"old": b"old", "new": b"1234"}, {"old": b"old"}]
    volume.apply(Operation("rename", "new", target="old"))
    left = list(volume.cuts(1000, random))
    assert {tree["old"] for tree in left} == {b"old", b"1234"}
    volume.apply(Operation("fsync", ""))
    assert list(volume.cuts(1000, random)) == [{"old": b"1234"}]
