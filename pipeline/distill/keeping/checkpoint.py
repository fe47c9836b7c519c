"""Checkpoints of a training: folders of safetensors and JSON that count only once COMMIT.json is in them.

    step-00000500/  weights.safetensors  average.safetensors  optimizer.safetensors  state.json  COMMIT.json
    best-00000400/  weights.safetensors  state.json  COMMIT.json

COMMIT.json is written last and lists size and xxh3-128 of the others. The newest *valid* checkpoint is the one that
counts; an older one is deleted only after a newer one has been read back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors

from pipeline import files
from pipeline.commits import COMMIT, check_commit, write_commit
from pipeline.console import warn_once
from pipeline.distill.settings import TrainSettings
from pipeline.errors import DamagedDataError, IdentityError, mended_by
from pipeline.folders import walk
from pipeline.links import refuse_links_out, tell_links
from pipeline.refusals import TOO_MANY_FILES, refused_unread

FORMAT_VERSION = 1
_STATE = "state.json"
KEPT = 2
"""Checkpoints of a training that are kept; a third is there while it is written"""

Tensors = dict[str, torch.Tensor]


def checkpoint_bytes(settings: TrainSettings, weights: int) -> int:
    """What one takes on disk, but for its JSON: weights, the optimizer's two moments, the average where one is kept."""
    return (3 + (settings.ema_decay > 0)) * weights


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that has been checked against its COMMIT.json."""

    folder: Path
    step: int
    state: dict[str, Any]

    def holds(self, name: str) -> bool:
        """Whether `<name>.safetensors` is part of it."""
        return (self.folder / f"{name}.safetensors").is_file()

    def tensors(self, name: str) -> Tensors:
        """The tensors of `<name>.safetensors`, on the CPU."""
        path = self.folder / f"{name}.safetensors"
        try:
            tensors: Tensors = safetensors.load(files.read_bytes(path))
        except (SafetensorError, ValueError, KeyError) as error:
            raise DamagedDataError(f"{path}: holds no tensors: {error}") from error
        return tensors


def save_checkpoint(
    folder: Path, prefix: str, step: int, tensors: dict[str, Tensors], state: dict[str, Any]
) -> Checkpoint:
    """Write one checkpoint durably and read it back; `tensors` maps file names to named tensors."""
    target = folder / f"{prefix}-{step:08d}"
    if target.is_dir():  # what an earlier start left here stops counting before it is overwritten
        files.remove_file(target / COMMIT)
    digests = {}
    for name, named in tensors.items():
        contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in named.items()}
        content = safetensors.save(contiguous, metadata={"format": "pt"})
        digests[f"{name}.safetensors"] = files.write_file(target / f"{name}.safetensors", content)
    digests[_STATE] = files.write_json(target / _STATE, {"format": FORMAT_VERSION, "step": step, **state})
    write_commit(target, digests)
    with mended_by(f"It was written just now: {files.UNTRUSTED}."):
        return open_checkpoint(target)


def open_checkpoint(folder: Path, whole: bool = True) -> Checkpoint:
    """Check a checkpoint against its COMMIT.json; DamagedDataError says what does not fit.

    Who wants its state alone needs no `whole` one: then tensors are not read, and only their sizes are compared.
    """
    refuse_links_out(folder, [folder / _STATE])
    if not (folder / COMMIT).is_file():
        raise DamagedDataError(f"{folder}: no {COMMIT}; the checkpoint was never finished")
    if _STATE not in check_commit(folder, None if whole else _STATE):
        raise DamagedDataError(f"{folder / COMMIT}: does not list {_STATE}")
    state = files.read_json(folder / _STATE)
    if state.get("format") != FORMAT_VERSION:
        raise IdentityError(
            f"{folder / _STATE}: checkpoint format {state.get('format')!r}, this version reads {FORMAT_VERSION}. "
            "Continue it with the version that wrote it."
        )
    if type(step := state.get("step")) is not int or step < 0:
        raise DamagedDataError(f"{folder / _STATE}: its step is {step!r}")
    return Checkpoint(folder, step, state)


def newest_checkpoint(
    folders: Iterable[Path] = (),
    is_wanted: Callable[[dict[str, Any]], bool] = lambda state: True,
    *,
    roots: Iterable[Path] = (),
    whole: bool = True,
    prefix: str = "step-",
) -> Checkpoint | None:
    """The newest valid checkpoint below `folders` and `roots`, at any depth; damaged ones are named and passed over.

    So is one in `roots`, which are only read, that cannot be read now. In `folders` that is a StorageError: it may be
    whole, and whoever goes on from an older one lets go of it. `is_wanted` is asked about the state of each. `whole` is
    as in `open_checkpoint`. Only folders called `prefix` and a number count (or just `prefix`, which may hold it): a
    renamed copy is somebody's own. Of equal names the first one found.
    """
    committed: dict[Path, tuple[Path, bool]] = {}
    for folder, kept in [*((folder, True) for folder in folders), *((root, False) for root in roots)]:
        for path in _committed(folder, kept, prefix):
            committed.setdefault(path, (folder, kept))
    for candidate in sorted(committed, key=lambda path: path.name, reverse=True):
        folder, kept = committed[candidate]
        try:
            refuse_links_out(folder, [candidate])
            if _is_wanted(candidate, is_wanted):
                return open_checkpoint(candidate, whole)
        except DamagedDataError as error:
            warn_once(f"checkpoint passed over: {error}")
        except OSError as error:
            _pass_over(candidate, error, kept)
    return None


def _committed(folder: Path, kept: bool, prefix: str) -> Iterator[Path]:
    """Folders below `folder` that are called as checkpoints are and hold a COMMIT.json."""
    called = re.compile(rf"{re.escape(prefix)}\d*")
    for parent, children, _ in walk(folder, lambda error: _pass_over(Path(error.filename), error, kept)):
        tell_links(Path(parent), [child for child in children if not called.fullmatch(child)])
        for child in filter(called.fullmatch, [*children]):
            try:
                (Path(parent) / child / COMMIT).lstat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                _pass_over(Path(parent) / child, error, kept)
            else:
                children.remove(child)  # nothing is looked for within
                yield Path(parent) / child


def _pass_over(place: Path, error: OSError, kept: bool) -> None:
    """Say that what cannot be read is passed over; StorageError where it is kept, or nothing at all can be read."""
    if error.errno in TOO_MANY_FILES or (kept and not isinstance(error, FileNotFoundError)):
        with refused_unread(place):
            raise error
    warn_once(f"checkpoint passed over: {place}: {error}")


def _is_wanted(folder: Path, is_wanted: Callable[[dict[str, Any]], bool]) -> bool:
    """What `is_wanted` says of a state that may be damaged: it is asked before the hash of anything is taken."""
    refuse_links_out(folder, [folder / COMMIT, folder / _STATE])
    try:
        return is_wanted(files.read_json(folder / _STATE))
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedDataError(f"{folder / _STATE}: is not the state of a checkpoint ({error!r})") from error


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is one checkpoint, whole or not, rather than one that holds some."""
    return any((folder / name).is_file() for name in (COMMIT, _STATE))


def retire_checkpoints(folder: Path, step: int, best_step: int | None, checked: Container[Path] = ()) -> None:
    """Keep the checkpoint of `step` and the newest valid one before it, and the best weights that these refer to.

    What is unfinished or damaged, or lies beyond `step` because it was passed over, goes. Those in `checked`, and that
    of `step`, are not read once more.
    """
    kept: list[Path] = []
    for path in sorted(_folders(folder, "step"), reverse=True):
        known = _step_of(path) == step or path in checked
        if len(kept) < KEPT and _step_of(path) <= step and (known or _is_valid(path)):
            kept.append(path)
        else:
            _remove(path)
    retire_best(folder, best_step)


def retire_leftovers(folder: Path, newest: Checkpoint | None, all_good: bool) -> None:
    """Remove what a start that was killed while it saved has left, before one goes on from `newest`.

    What was never finished goes. Where `all_good` says that none before `newest` may be needed, so do checkpoints that
    are more than are kept, and best weights that only what goes referred to. What lies beyond `newest` stays: it may
    just not be readable today.
    """
    gone = [path for prefix in ("step", "best") for path in _folders(folder, prefix) if not (path / COMMIT).is_file()]
    if newest is not None and all_good:
        whole = [path for path in _folders(folder, "step") if path not in gone and _step_of(path) <= newest.step]
        num_kept = 0
        for path in reversed(whole) if len(whole) > KEPT else ():  # else none is read that stays
            if num_kept < KEPT and (path == newest.folder or _is_valid(path)):
                num_kept += 1
            else:
                gone.append(path)
    for path in gone:
        _remove(path)
    if gone and all_good:
        best = None if newest is None else newest.state["best"]
        retire_best(folder, None if best is None else best["step"])


def retire_best(folder: Path, best_step: int | None) -> None:
    """Keep the best weights of `best_step`, and those that a checkpoint refers to, which may be resumed from."""
    kept = {best_step}
    for path in _folders(folder, "step"):
        try:
            kept.add((files.read_json(path / _STATE).get("best") or {}).get("step"))
        except (DamagedDataError, FileNotFoundError):
            continue
        except OSError:
            return  # what cannot be read today may refer to any of them
    for path in _folders(folder, "best"):
        if _step_of(path) not in kept:
            _remove(path)


def _is_valid(folder: Path) -> bool:
    """Whether a checkpoint is whole, by reading all of it; what another version wrote is left to that version."""
    if not (folder / COMMIT).is_file():
        return False
    try:
        open_checkpoint(folder)
    except DamagedDataError as error:
        warn_once(f"checkpoint removed, there are newer ones: {error}")
        return False
    except (IdentityError, OSError):
        return True
    return True


def _folders(folder: Path, prefix: str) -> Iterator[Path]:
    """Checkpoints by the names that are given here; a folder that somebody called otherwise is left alone."""
    names = re.compile(rf"{prefix}-[0-9]+")
    yield from sorted(path for path in folder.glob(f"{prefix}-*") if names.fullmatch(path.name) and path.is_dir())


def _step_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _remove(path: Path) -> None:
    files.remove_file(path / COMMIT)
    files.remove_folder(path)
