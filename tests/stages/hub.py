"""A hub whose `main` moves, at the one door where the program asks it, and a machine that downloads from it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from pipeline.data import tables


class MovingHub:
    """Models and data sets by commit; what is downloaded lies as the hub's own client lays it out."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.cache = folder / "hub", folder / "cache"
        self._main: dict[str, str] = {}
        self.asked: list[tuple[str, str | None]] = []
        """hub id and revision, of all that was asked"""

    def stand_in(self, patch: pytest.MonkeyPatch) -> None:
        """Be the hub, until the patch is undone."""
        open_dataset = tables._open_dataset

        def opened(dataset: str, subset: str | None, split: str, revision: str | None) -> Any:
            return open_dataset(str(self._folder / self._commit(dataset, revision)), subset, split, None)

        def info(api: Any, dataset: str, revision: str | None = None, timeout: float | None = None) -> Any:
            return type("Info", (), {"sha": self._commit(dataset, revision)})

        patch.setattr(tables, "_open_dataset", opened)
        patch.setattr(huggingface_hub.HfApi, "dataset_info", info)
        patch.setattr(huggingface_hub, "hf_hub_download", self._download)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(self.cache))

    def push(self, name: str, folder: Path) -> str:
        """Upload a folder: `main` moves to it. Its commit."""
        commit = f"c{len(list(self._folder.glob('*'))) + 1:039x}"
        shutil.copytree(folder, self._folder / commit)
        self._main[name] = commit
        return commit

    def begin_on_another_machine(self) -> None:
        """Nothing is downloaded there yet."""
        shutil.rmtree(self.cache, ignore_errors=True)
        self.asked.clear()

    def _commit(self, name: str, revision: str | None) -> str:
        self.asked.append((name, revision))
        return self._main[name] if revision is None else revision

    def _download(self, name: str, file: str, revision: str | None = None) -> str:
        commit = self._commit(name, revision)
        home = self.cache / f"models--{name.replace('/', '--')}"
        snapshot = home / "snapshots" / commit
        if not snapshot.is_dir():
            shutil.copytree(self._folder / commit, snapshot)
        if revision is None:
            (home / "refs").mkdir(exist_ok=True)
            (home / "refs" / "main").write_text(commit)
        assert (snapshot / file).is_file(), file
        return str(snapshot / file)
