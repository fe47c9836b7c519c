"""Checkpoints that cannot be read now: a run's own are not passed over, those of a root are, and it is said."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import files
from pipeline.distill.keeping.checkpoint import newest_checkpoint
from pipeline.errors import StorageError
from tests.distill.small_checkpoints import save

Refuse = Callable[[Path, int], None]


@pytest.fixture(params=[(Path, "lstat"), (files, "digest_file")], ids=["looked for", "read"])
def refuse(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """A function that makes the system refuse a look at the files of a folder, or their bytes."""

    def refusing(folder: Path, number: int) -> None:
        def refused(path: Path) -> Any:
            if path.parent == folder:
                raise OSError(number, os.strerror(number), str(path))
            return real(path)

        owner, name = request.param
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, refused)

    return refusing


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EIO, "the disk failed .*sad-pipeline verify"),
        (errno.ESTALE, "cannot be read now .*Run the same command again once it can be read; .* move .* away"),
        (errno.EACCES, "cannot be read now "),
        (errno.EMFILE, "too many files are open .*ulimit -n"),
    ],
)
def test_what_cannot_be_read_now_is_not_passed_over(number: int, message: str, refuse: Refuse, tmp_path: Path) -> None:
    """It may be whole, and who went on from step 4 would remove it at the next checkpoint."""
    for step in (4, 8):
        save(tmp_path, step)
    refuse(tmp_path / "step-00000008", number)
    with pytest.raises(StorageError, match=f"step-00000008.*: {message}"):
        newest_checkpoint([tmp_path])


def test_in_a_root_it_is_passed_over_and_said(
    refuse: Refuse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (4, 8):
        save(tmp_path / "mounted", step)
    refuse(tmp_path / "mounted" / "step-00000008", errno.EIO)
    found = newest_checkpoint([tmp_path / "absent"], roots=[tmp_path / "mounted"])
    assert found is not None
    said = capsys.readouterr().err
    assert (found.step, "checkpoint passed over: " in said, "step-00000008" in said) == (4, True, True), said
    assert "absent" not in said


def test_nor_is_a_folder_of_them_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 4)

    def refused(path: Path) -> Any:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(StorageError, match=f"^{tmp_path}: cannot be read now "):
        newest_checkpoint([tmp_path])
    assert newest_checkpoint(roots=[tmp_path]) is None
