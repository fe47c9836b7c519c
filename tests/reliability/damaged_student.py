"""What can happen to what a training left, and the law: `verify` names it, and nobody is given it for whole."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from tests.reliability.damaging import Place, Victim, harms_of, within
from tests.stages.toys import run

LOG = "metrics.jsonl"
OF_THEIR_OWNER = {"README.md"}  # a card is written on by whoever publishes it
UNMARKED = "missing model/COMMIT.json"  # how a model is told from one that was changed on purpose


def places(student: Path) -> list[Place]:
    """Every way to damage an exported student and the log of its training, in a fixed order."""
    model = sorted(path for path in (student / "model").iterdir() if path.name not in OF_THEIR_OWNER)
    found = [harm for path in model for harm in within("model", harms_of(f"model/{path.name}", [path]))]
    return [*found, *harms_of(LOG, [student / LOG])]


def check_verify(victim: Victim, place: Place, harmed: list[str], cached: Path) -> None:
    """`verify` names what was harmed; what was added after the last checkpoint's lines of a log is nobody's."""
    ended = run("verify", str(victim.root), "--root", str(cached), "--json")
    found = json.loads(ended.stdout)
    if place.name in (UNMARKED, f"lengthened {LOG}") or all(_says_the_same(victim, name) for name in harmed):
        assert (ended.code, found) == (0, []), ended.stderr
        return
    assert ended.code == 4, ended.stderr
    assert len(found) == 1, found
    said = f"{found[0]['path']}: {found[0]['what']}"
    for name in harmed:
        assert Path(name).name in said or (name.endswith("COMMIT.json") and said.startswith(f"{victim.root}/student"))


def _says_the_same(victim: Victim, name: str) -> bool:
    """Whether other bytes of a COMMIT.json are the same JSON."""
    path = victim.root / "student" / name
    with contextlib.suppress(ValueError, OSError):
        return path.name == "COMMIT.json" and bool(json.loads(path.read_bytes()) == json.loads(victim.whole[path]))
    return False


def check_made_good(victim: Victim, place: Place) -> None:
    """After train-student the model is what it was; a log is not made up again."""
    same = _says_the_same(victim, "model/COMMIT.json")
    spared = {"status.json", ".lock", "student/timings.jsonl", f"student/{LOG}"}
    spared |= {f"student/{UNMARKED.split()[1]}"} if place.name == UNMARKED or same else set()
    changed = victim.changed() - spared
    assert not changed, changed
