"""What cannot be listed is told, and does not count as empty; what is gone meanwhile holds nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cache.roots import earlier_plan
from pipeline.data.settings import DataSettings
from pipeline.data.source_files import source_files
from pipeline.errors import StorageError
from pipeline.folders import walk
from pipeline.output_limit import folder_bytes
from tests.cache.dense import make_cache

Refuse = Callable[[Path, int], None]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """A function that makes the system refuse to list a folder; permissions alone do not stop a superuser."""

    def refusing(folder: Path, number: int) -> None:
        real = os.scandir

        def refused(place: Any = ".") -> Any:
            if not isinstance(place, int) and Path(place) == folder:
                raise OSError(number, os.strerror(number), str(place))
            return real(place)

        monkeypatch.setattr(os, "scandir", refused)

    return refusing


REFUSED = [
    (errno.ESTALE, "cannot be listed now .*would count as absent. Run the same command again once it can be"),
    (errno.EACCES, "cannot be listed now .Permission denied."),
    (errno.EIO, "cannot be listed now .*or move it to where nothing is looked for"),
    (errno.EMFILE, "too many files are open .*ulimit -n"),
]


@pytest.mark.parametrize(("number", "message"), REFUSED)
@pytest.mark.parametrize("below", ["", "old"])
def test_a_plan_that_cannot_be_looked_for_is_not_made_anew(
    below: str, number: int, message: str, refuse: Refuse, tmp_path: Path
) -> None:
    """All that its seals stand for would be captured once more."""
    make_cache(tmp_path / "mounted" / "old")
    refuse(tmp_path / "mounted" / below, number)
    with pytest.raises(StorageError, match=f"^{tmp_path / 'mounted' / below}: .*{message}"):
        earlier_plan(tmp_path / "new", [tmp_path / "mounted"])


@pytest.mark.parametrize(("number", "message"), REFUSED)
def test_text_that_cannot_be_listed_is_not_left_out(number: int, message: str, refuse: Refuse, tmp_path: Path) -> None:
    """A cache of a part of the text would look like one of all of it."""
    (tmp_path / "texts" / "more").mkdir(parents=True)
    (tmp_path / "texts" / "a.txt").write_text("words")
    settings = DataSettings(source="text", path=str(tmp_path / "texts"))
    assert list(source_files(settings)) == ["a.txt"]
    refuse(tmp_path / "texts" / "more", number)
    with pytest.raises(StorageError, match=f"^{tmp_path / 'texts' / 'more'}: .*{message}"):
        source_files(settings)


@pytest.mark.parametrize(("number", "message"), REFUSED)
def test_what_cannot_be_counted_is_not_taken_for_nothing(
    number: int, message: str, refuse: Refuse, tmp_path: Path
) -> None:
    (tmp_path / "run" / "cache").mkdir(parents=True)
    (tmp_path / "run" / "cache" / "large").write_bytes(bytes(1000))
    refuse(tmp_path / "run" / "cache", number)
    with pytest.raises(StorageError, match=f"^{tmp_path / 'run' / 'cache'}: .*{message}"):
        folder_bytes(tmp_path / "run")


@pytest.mark.parametrize(("name", "number"), [("gone", errno.ENOENT), ("gone", errno.ENOTDIR), ("lost+found", 13)])
def test_what_is_gone_or_not_for_us_holds_nothing(name: str, number: int, refuse: Refuse, tmp_path: Path) -> None:
    """Another process may tidy up meanwhile; at the top of a disk lies a folder that nobody but root may list."""
    plan, _, _ = make_cache(tmp_path / "cache")
    (tmp_path / name).mkdir()
    refuse(tmp_path / name, number)
    found = earlier_plan(tmp_path)
    assert found is not None
    assert (found[0].hash, found[1]) == (plan.hash, [tmp_path / "cache"])
    assert folder_bytes(tmp_path) == folder_bytes(tmp_path / "cache") > 0


def test_a_refusal_that_names_no_folder_is_of_the_one_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(place: str) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(StorageError, match=f"^{tmp_path}: this folder cannot be listed now"):
        list(walk(tmp_path))
