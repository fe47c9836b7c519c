"""Stopped at any operation, and stopped again while it goes on: the same command gives the same bytes.

One straight run is recorded, operation by operation. From the record the disk is rebuilt as a process that was killed
there leaves it (before each operation, and with half of each write), and the command is run again on it.
"""

from __future__ import annotations

import pytest

from tests.reliability.points import ONLY, Share, again, shares
from tests.reliability.scenes import CAPTURE, Crash, Scene, lay_out, read_tree
from tests.reliability.shim import Shim
from tests.reliability.tally import LONG, Tally
from tests.reliability.volume import Operation

SCENES = ["capture", "training"]
KINDS = {"create", "write", "torn write", "fsync", "rename", "mkdir", "chmod"}
AT_LEAST = {"capture": 560, "training": 1100} if LONG else {"capture": 250, "training": 250}
SEEDS, STATES_A_SEED = (100, 20) if LONG else (10, 6)


def recover(scene: Scene, crashes: list[Crash], tally: Tally) -> None:
    """Run the command again after each; all that went wrong is told together."""
    troubles = []
    for crash in crashes:
        if trouble := scene.trouble_after(crash.tree):
            troubles.append(f"{again('crash', crash)}: before or in a {crash.kind}\n{trouble}")
        else:
            tally.point(f"{scene.stage} {crash.kind}")
    assert not troubles, "\n\n".join(troubles)


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("share", shares(2, 8), ids=str)
def test_stopped_at_any_operation(name: str, share: Share, scenes: dict[str, Scene], tally: Tally) -> None:
    scene = scenes[name]
    crashes = list(scene.straight.crashes(name))
    assert len(crashes) >= AT_LEAST[name]
    assert {crash.kind for crash in crashes} >= KINDS | ({"unlink", "rmdir"} if name == "training" else set())
    mine = list(share.take(crashes))
    recover(scene, mine, tally)
    assert ONLY or tally.points == len(mine) >= AT_LEAST[name] // share.of


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("share", shares(1, 8), ids=str)
def test_stopped_again_while_it_goes_on(name: str, share: Share, scenes: dict[str, Scene], tally: Tally) -> None:
    scene = scenes[name]
    first = list(scene.straight.crashes(name))
    seeds = [first[number * len(first) // SEEDS] for number in range(SEEDS)]
    for number, seed in enumerate(seeds):
        if number % share.of != share.number:
            continue
        second = list(scene.record(seed.tree).crashes(f"{seed}; then"))
        assert len(second) >= 10, seed  # even where nothing is left to do, config.yaml and status.json are written
        # Evenly over the whole resume, but beginning at another place each time.
        at = {(place * len(second) + number * len(second) // SEEDS) // STATES_A_SEED for place in range(STATES_A_SEED)}
        chosen = [crash for place, crash in enumerate(second) if place in at]
        recover(scene, [crash for crash in chosen if not ONLY or str(crash) == ONLY], tally)
    assert ONLY or tally.points >= len(seeds) // share.of * STATES_A_SEED * 9 // 10


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
