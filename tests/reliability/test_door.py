"""The power fails between any two calls of one verb: old or new and nothing else, and what has returned lasts.

Here the verbs of the door to disk stand alone, and with them those that remove or overwrite what a mark speaks of. On
each every legal loss is tried, not a drawn one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
import torch

from pipeline import files
from pipeline.cache.repair import repair
from pipeline.cache.verify import Problem
from pipeline.distill.keeping import export
from pipeline.distill.keeping.checkpoint import save_checkpoint
from tests import tiny
from tests.cache.dense import make_cache
from tests.reliability.marks import broken_marks
from tests.reliability.shim import Shim
from tests.reliability.tally import Tally
from tests.reliability.trees import lay_out, read_tree
from tests.reliability.volume import Tree, Volume

OLD, NEW = b"old " * 3, b"new! " * 4
MOST_CUTS = 5000


@dataclass(frozen=True)
class Verb:
    """One call, the disk it begins with, and the one it is to leave; temporaries apart."""

    do: Callable[[Path], object]
    before: Tree
    after: Tree
    between: tuple[Tree, ...] = ()
    """what may be seen on the way besides those two"""


def _fill(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "a").write_bytes(NEW)
    (folder / "inner" / "b").write_bytes(NEW)


def _log(root: Path) -> None:
    files.append_lines(root / "log", ["one", "two"])
    files.sync_file(root / "log")


MODEL: Tree = {"m": None, "m/a": OLD, "m/c": OLD}
FILLED: Tree = {"m": None, "m/a": NEW, "m/inner": None, "m/inner/b": NEW}
VERBS = {
    "write_file": Verb(lambda root: files.write_file(root / "f", NEW), {"f": OLD}, {"f": NEW}),
    "write_file from a function": Verb(lambda root: files.write_file(root / "f", _write), {"f": OLD}, {"f": NEW}),
    "write_file in new folders": Verb(
        lambda root: files.write_file(root / "a" / "b" / "f", NEW),
        {},
        {"a": None, "a/b": None, "a/b/f": NEW},
        ({"a": None}, {"a": None, "a/b": None}),
    ),
    "make_folder": Verb(lambda root: files.make_folder(root / "a" / "b"), {}, {"a": None, "a/b": None}, ({"a": None},)),
    "publish_folder": Verb(lambda root: files.publish_folder(root / "m", _fill), MODEL, FILLED),
    "publish_folder, the first": Verb(lambda root: files.publish_folder(root / "m", _fill), {}, FILLED),
    "remove_file": Verb(lambda root: files.remove_file(root / "f"), {"f": OLD}, {}),
    "remove_folder": Verb(lambda root: files.remove_folder(root / "m"), MODEL, {}),
    "sync_file": Verb(
        _log,
        {"log": b"zero\n"},
        {"log": b"zero\none\ntwo\n"},
        tuple({"log": b"zero\n" + rest} for rest in (b"one\n", b"one\n" + bytes(4), bytes(8))),
    ),
}


def _write(file: object) -> None:
    file.write(NEW)  # type: ignore[attr-defined]


def recorded(disk: Path, tree: Tree, do: Callable[[Path], object]) -> tuple[list[list[Tree]], int]:
    """All disks that a power cut may leave, after each operation of a call; and how many operations there were."""
    lay_out(disk, tree)
    shim = Shim(disk, tree)
    with shim.at_work():
        do(disk)
    volume, left = Volume(tree), []
    for operation in shim.operations:
        volume.apply(operation)
        left.append([_without_temporaries(cut) for cut in volume.cuts(MOST_CUTS, Random(0))])
    assert read_tree(disk) == volume.tree()
    return left, len(shim.operations)


def _without_temporaries(tree: Tree) -> Tree:
    return {path: content for path, content in tree.items() if ".tmp" not in path}


@pytest.mark.parametrize("name", VERBS)
def test_old_or_new_and_then_new_for_good(name: str, tmp_path: Path, tally: Tally) -> None:
    verb = VERBS[name]
    left, num_operations = recorded(tmp_path / "disk", verb.before, verb.do)
    legal = [verb.before, verb.after, *verb.between]
    for number, trees in enumerate(left):
        assert all(tree in legal for tree in trees), f"after {number + 1} of {num_operations} operations"
    assert all(tree == verb.after for tree in left[-1]), "it returned, and may be lost"
    tally.point(f"{name}, all cuts")


def test_repair_never_leaves_a_seal_without_its_shard(tmp_path: Path, tally: Tally) -> None:
    """Also where the name of the seal comes back: its removal lasts before the shard is touched."""
    make_cache(tmp_path / "cache", num_train=2, num_validation=1)
    tree = read_tree(tmp_path / "cache")
    (shard, *_), left = sorted(path for path in tree if path.endswith(".shard") and path.startswith("shards/")), []
    for name in ("plan.json", "sequences.shard"):  # of a cache in tests, which has neither a tokenizer nor a report
        del tree[name]

    def mend(disk: Path) -> None:
        left.extend(repair(disk, [Problem(disk / shard, "damaged", "", repairable=True)]))

    trees, _ = recorded(tmp_path / "disk", tree, mend)
    assert len(left) == 1
    for found in trees:
        assert [broken_marks(one) for one in found] == [""] * len(found)
    assert not any(path.startswith(shard.partition(".")[0]) for one in trees[-1] for path in one)
    tally.point("repair, all cuts")


def test_a_checkpoint_that_is_overwritten_stops_counting_first(tmp_path: Path, tally: Tally) -> None:
    """As where a training went back to an older one and comes to that step once more, on another machine."""

    def save(folder: Path, value: float) -> None:
        save_checkpoint(folder, "step", 4, {"weights": {"w": torch.full((4,), value)}}, {"value": value})

    save(tmp_path / "before", 1.0)
    tree = read_tree(tmp_path / "before")
    trees, _ = recorded(tmp_path / "disk", tree, lambda disk: save(disk, 2.0))
    for found in trees:
        assert [broken_marks(one) for one in found] == [""] * len(found)
    shutil.rmtree(tmp_path / "before")
    save(tmp_path / "before", 2.0)
    assert all(one == read_tree(tmp_path / "before") for one in trees[-1])
    tally.point("save_checkpoint over another, all cuts")


def test_an_export_that_fails_leaves_the_model_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    class Tokenizer:
        vocab_size = 1

        def save_beside(self, staging: Path, _: object) -> None:
            assert (staging / "weights").read_bytes() == NEW
            raise ZeroDivisionError

    monkeypatch.setattr(export, "drop_padding_rows", lambda model, num_ids: True)
    monkeypatch.setattr(export, "save_model", lambda model, staging: (staging / "weights").write_bytes(NEW))
    lay_out(tmp_path / "disk", MODEL)
    with pytest.raises(ZeroDivisionError):
        export.export_model(tmp_path / "disk" / "m", tiny.make_model("llama"), Tokenizer(), "")  # type: ignore[arg-type]
    assert read_tree(tmp_path / "disk") == MODEL
    tally.point("export_model, a failure")
