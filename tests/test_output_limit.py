"""What is counted of a run, and what is said at the limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import files, output_limit, session
from pipeline.errors import ConfigError
from pipeline.output_limit import OutputLimit, figure, folder_bytes
from stages.config import load_run_config
from tests.kaggle_kit import KIT


def put(path: Path, num_bytes: int) -> Path:
    """A file of so many bytes."""
    files.write_file(path, b"x" * num_bytes)
    return path


# ------------------------------------------------------------------ counting


def test_all_files_below_are_counted(tmp_path: Path) -> None:
    put(tmp_path / "a" / "b", 3)
    put(tmp_path / "c", 2)
    put(tmp_path / ".hidden" / "d", 4)
    assert folder_bytes(tmp_path) == 9
    assert folder_bytes(tmp_path / "nowhere") == 0


def test_what_a_link_leads_to_is_not_counted(tmp_path: Path) -> None:
    """A root may be linked into the run; it takes no room there."""
    put(tmp_path / "elsewhere" / "large", 100_000)
    run = tmp_path / "run"
    put(run / "own", 10)
    (run / "folder").symlink_to(tmp_path / "elsewhere")
    (run / "file").symlink_to(tmp_path / "elsewhere" / "large")
    assert 10 <= folder_bytes(run) < 1000
    (tmp_path / "linked").symlink_to(run)
    assert folder_bytes(tmp_path / "linked") == folder_bytes(run), "a run that is itself a link is counted"


def test_a_file_that_goes_meanwhile_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "stays", 5)
    put(tmp_path / "goes", 7)
    real = os.lstat

    def gone(path: str) -> os.stat_result:
        if path.endswith("goes"):
            raise FileNotFoundError(path)
        return real(path)

    monkeypatch.setattr(output_limit.os, "lstat", gone)
    assert folder_bytes(tmp_path) == 5


def test_folders_in_each_other_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "artifacts" / "mine" / "cache", 30)
    put(tmp_path / "artifacts" / "other" / "cache", 12)
    put(tmp_path / "far", 8)
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "artifacts" / "mine"
    assert OutputLimit(1, (run,)).used_bytes() == 30
    assert OutputLimit(1, (run, Path("artifacts"))).used_bytes() == 42
    assert OutputLimit(1, (run, Path("artifacts"), Path("."), Path("artifacts/other"))).used_bytes() == 50
    assert OutputLimit(1, (run, Path("nowhere"))).used_bytes() == 30


# ------------------------------------------------------------------ at the limit


def test_room_ends_exactly_at_the_limit(tmp_path: Path) -> None:
    put(tmp_path / "a", 1500)
    limit = OutputLimit(4000, (tmp_path,))
    assert limit.shortage(2500, "the next shard", "Go elsewhere.") is None
    assert limit.shortage(2501, "the next shard", "Go elsewhere.") == (
        f"the limit of session.max_output_gb is reached: of 4 kB, 1.5 kB are taken in {tmp_path}, and the next shard "
        "needs up to 2.5 kB more. Go elsewhere."
    )


def test_what_no_empty_folder_would_hold_is_refused(tmp_path: Path) -> None:
    limit = OutputLimit(2_000_000_000, (tmp_path,))
    limit.refuse_less_than(2e9, "one checkpoint", "Raise it.")
    message = r"session\.max_output_gb: 2\.00 GB are allowed, and one checkpoint alone needs up to 2\.17 GB\. Raise"
    with pytest.raises(ConfigError, match=message):
        limit.refuse_less_than(2.17e9, "one checkpoint", "Raise it.")


def free(monkeypatch: pytest.MonkeyPatch, num_bytes: int | None) -> list[Path]:
    """So much is free on every disk; returns a list of the folders whose disk is asked."""
    asked: list[Path] = []
    monkeypatch.setattr(output_limit, "free_below", lambda folder: asked.append(folder) or num_bytes)
    return asked


@pytest.mark.parametrize("max_bytes", [None, 10**9])
def test_the_disk_is_asked_with_a_limit_and_without(
    max_bytes: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = free(monkeypatch, 1500)
    limit = OutputLimit(max_bytes, (tmp_path / "run", tmp_path / "other"))
    assert limit.shortage(1500, "the next shard", "Go elsewhere.") is None
    assert limit.shortage(1501, "the next shard", "Go elsewhere.", "Two are left to do. ") == (
        f"the disk has no room: 1.5 kB are free where {tmp_path / 'run'} is, and the next shard needs up to 1.5 kB. "
        "Two are left to do. Nothing is lost: make room there, and run the same command again."
    )
    assert asked == [tmp_path / "run"] * 2


def test_a_disk_that_does_not_say_what_is_free_is_no_full_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, None)
    assert OutputLimit(None, (tmp_path,)).shortage(1e30, "anything", "") is None


def test_the_disk_is_asked_without_counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_limit, "folder_bytes", lambda folder: 1 / 0)
    assert OutputLimit(None, (tmp_path / "not yet",)).shortage(1, "a byte", "") is None
    assert "the disk has no room" in str(OutputLimit(None, (tmp_path / "not yet",)).shortage(1e18, "all of it", ""))


def test_without_a_limit_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_limit, "folder_bytes", lambda folder: 1 / 0)
    limit = OutputLimit()
    limit.refuse_less_than(1e30, "anything", "")
    assert limit.shortage(1e30, "anything", "") is None


@pytest.mark.parametrize(
    ("size", "words"), [(812, "812 bytes"), (41_234, "41.2 kB"), (18_834_000_000, "18.83 GB"), (19e9, "19.00 GB")]
)
def test_figures_near_a_limit_can_be_told_apart(size: float, words: str) -> None:
    assert figure(size) == words


def test_two_commands_at_once_have_parts_of_their_own_as_the_page_says(tmp_path: Path) -> None:
    """The working folder counts for each stage of the notebook, and all of it would for both."""
    change = "session.output_folders=[]"
    assert f"`--set '{change}'`" in (KIT / "README.md").read_text(encoding="utf-8")
    for size, name in enumerate(("one", "other"), 1):
        put(tmp_path / name / "file", size)
    shared = session.SessionSettings(max_output_gb=1, output_folders=[str(tmp_path)])
    assert session.output_limit(shared, tmp_path / "one").used_bytes() == 3
    own = load_run_config("kaggle-t4x2", [change]).session
    assert [session.output_limit(own, tmp_path / name).used_bytes() for name in ("one", "other")] == [1, 2]
