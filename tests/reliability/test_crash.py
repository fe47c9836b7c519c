"""Stopped at any operation, and stopped again while it goes on: the same command gives the same bytes.

One straight run is recorded, operation by operation. From the record the disk is rebuilt as a process that was killed
there leaves it (before each operation, and with half of each write; in the long size with other lengths of it too), and
the command is run again on it. Places that leave the same disk are one point.
"""

from __future__ import annotations

import pytest

from tests.reliability.crashes import Crash, distinct
from tests.reliability.points import ONLY, Share, again, shares
from tests.reliability.scenes import CAPTURE, Scene
from tests.reliability.shim import Shim
from tests.reliability.tally import LONG, Tally
from tests.reliability.trees import lay_out, read_tree
from tests.reliability.volume import Operation

SCENES = ["capture", "training"]
KINDS = {"create", "write", "torn write", "fsync", "rename", "mkdir", "chmod"}
PLACES = {"capture": 1400, "training": 2050} if LONG else {"capture": 250, "training": 250}
AT_LEAST = {"capture": 920, "training": 1575} if LONG else {"capture": 180, "training": 185}  # disks
SEEDS = {"capture": 84, "training": 58} if LONG else {"capture": 10, "training": 10}
STATES_A_SEED = 100 if LONG else 16
BEGINNING = 220  # operations of a second run, in which it comes to a disk of the first one's
AGAIN = {"capture": 600, "training": 1920} if LONG else {"capture": 45, "training": 95}  # disks that are no others' too
_again: dict[str, list[Crash]] = {}


def recover(scene: Scene, crashes: list[Crash], tally: Tally) -> None:
    """Run the command again after each; all that went wrong is told together."""
    troubles = []
    for crash in crashes:
        if trouble := scene.trouble_after(crash.tree):
            troubles.append(f"{again('crash', crash)}: before or in a {crash.kind}\n{trouble}")
        else:
            tally.point(f"{scene.stage} {crash.kind}")
    assert not troubles, "\n\n".join(troubles)


def test_there_are_as_many_disks_as_promised() -> None:
    assert sum(AT_LEAST.values()) + sum(AGAIN.values()) >= (5000 if LONG else 500)


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("share", shares(2, 8), ids=str)
def test_stopped_at_any_operation(name: str, share: Share, scenes: dict[str, Scene], tally: Tally) -> None:
    scene = scenes[name]
    crashes = list(scene.straight.crashes(name))
    assert len(crashes) >= PLACES[name]
    assert {crash.kind for crash in crashes} >= KINDS | ({"unlink", "rmdir"} if name == "training" else set())
    points = distinct(crashes, set())
    assert len(points) >= AT_LEAST[name]
    mine = list(share.take(points))
    recover(scene, mine, tally)
    assert ONLY or tally.points == len(mine) >= AT_LEAST[name] // share.of
    counted = {str(point) for point in points}
    for crash in share.take(crash for crash in crashes if str(crash) not in counted):
        tally.alike(f"{scene.stage} {crash.kind}")


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("share", shares(1, 32), ids=str)
def test_stopped_again_while_it_goes_on(name: str, share: Share, scenes: dict[str, Scene], tally: Tally) -> None:
    points = stopped_again(scenes[name])
    assert len(points) >= AGAIN[name]
    mine = list(share.take(points))
    recover(scenes[name], mine, tally)
    assert ONLY or tally.points == len(mine) >= AGAIN[name] // share.of


def stopped_again(scene: Scene) -> list[Crash]:
    """Second stops, at disks that no first stop leaves and no other second one; found once by each process."""
    if scene.name not in _again:
        seen, found, num_seeds = set[str](), list[Crash](), SEEDS[scene.name]
        first = distinct(scene.straight.crashes(scene.name), seen)
        for number in range(num_seeds):
            seed = first[number * len(first) // num_seeds]
            second = list(scene.crashes_early(seed.tree, BEGINNING, f"{seed}; then"))
            assert len(second) >= 10, seed  # even where nothing is left to do, config.yaml and status.json are written
            new = distinct(second, seen)
            # Evenly over the beginning of the resume, from another place each time.
            begin = number * len(new) // num_seeds
            at = {(place * len(new) + begin) // STATES_A_SEED for place in range(STATES_A_SEED)}
            found += [crash for place, crash in enumerate(new) if place in at]
        _again[scene.name] = found
    return _again[scene.name]


@pytest.mark.parametrize("name", SCENES)
def test_the_record_is_what_the_disk_held(name: str, scenes: dict[str, Scene]) -> None:
    """Before every operation of a run, the disk is what the record says a crash would leave; but for the word in a lock
    of who holds it, which nothing reads after that."""
    scene, compared = scenes[name], 0

    def compare(operation: Operation) -> None:
        nonlocal compared
        if not operation.kind.startswith("open"):
            held = {path: b"" for path in shim.volume.tree() if path.endswith("/.lock")}
            assert read_tree(scene.disk) | held == shim.volume.tree(), operation
            compared += 1

    lay_out(scene.disk, {})
    shim = Shim(scene.disk, before=compare)
    with shim.at_work():
        scene.run()
    assert compared >= len(shim.operations) - 20  # those of files that libraries wrote are noticed together
    kinds = [operation.kind for operation in shim.operations]
    assert kinds == [operation.kind for operation in scene.straight.operations] or scene.stage == CAPTURE
