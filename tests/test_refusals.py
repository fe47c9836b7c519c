"""What the operating system refuses, in words, with the next step."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import files
from pipeline.errors import StorageError
from pipeline.refusals import reading_errors
from tests.crashes import Disk


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"the disk is full .*What is sealed is safe; free some space and run the same command again"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EFBIG, "the disk is full"),
        (errno.EROFS, r"cannot be written .*Work on a copy in a folder that can be"),
        (errno.EACCES, "cannot be written"),
        (errno.EIO, "the disk failed"),
        (errno.ENOLCK, r"the file system cannot do what a run needs .*take a local disk: --run-dir"),
        (errno.EINVAL, "the file system cannot do what a run needs"),
        (errno.ENOTCONN, r"the file system is not there any more .*Mount it again"),
        (errno.EMFILE, r"too many files are open .*ulimit -n"),
    ],
)
def test_a_refusal_names_the_place_and_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    Disk(monkeypatch, 3, OSError(number, os.strerror(number)))
    with pytest.raises(StorageError, match=f"^{tmp_path / 'file'}: {message}") as caught:
        files.write_file(tmp_path / "file", b"data")
    assert caught.value.exit_code == 7


def test_other_errors_of_the_system_keep_their_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch, 3, OSError(errno.EBUSY, "Device or resource busy"))
    with pytest.raises(OSError, match="Device or resource busy"):
        files.write_file(tmp_path / "file", b"data")


def test_a_disk_filled_by_a_library_in_rust_is_recognised(tmp_path: Path) -> None:
    """safetensors and tokenizers raise the system's refusal under classes of their own."""

    def full(folder: Path) -> None:
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(StorageError, match="the disk is full"):
        files.publish_folder(tmp_path / "model", full)


def test_something_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        files.write_file(tmp_path / "file" / "below", b"data")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(StorageError, match="a folder stands where a file is needed"):
        files.write_file(tmp_path / "folder", b"data")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


LIMITED = """
import resource, sys
import subprocess
import sys
from pathlib import Path
from pipeline import files
from pipeline.errors import StorageError
from pipeline.refusals import reading_errors
target = Path(sys.argv[1])
def with_safetensors(folder):
    import numpy as np
    from safetensors.numpy import save_file
    save_file({"a": np.zeros(100_000, np.uint8)}, folder / "a.safetensors")
verbs = {
    "write_file": lambda: files.write_file(target, bytes(100_000)),
    "append_lines": lambda: files.append_lines(target, ["x" * 100_000]),
    "publish_folder": lambda: files.publish_folder(target, with_safetensors),
}
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    verbs[sys.argv[2]]()
except StorageError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("verb", ["write_file", "append_lines", "publish_folder"])
def test_a_real_refusal_of_a_real_system(tmp_path: Path, verb: str) -> None:
    """A process that may write 50 kB a file meets a real error in Python's own calls and in a library's."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "target"), verb]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f"{tmp_path / 'target'}: the disk is full (File too large). What is sealed is safe")
    assert verb == "append_lines" or not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "message"), [(errno.EIO, "the disk failed"), (errno.EMFILE, "too many files are open")]
)
def test_what_stands_in_the_way_of_reading_is_a_refusal_too(tmp_path: Path, number: int, message: str) -> None:
    for name, place in ((str(tmp_path / "file"), tmp_path / "file"), (None, tmp_path)):
        with pytest.raises(StorageError, match=f"^{place}: {message}"), reading_errors(tmp_path):
            raise OSError(number, os.strerror(number), name)


def test_a_missing_file_is_not(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), reading_errors(tmp_path):
        (tmp_path / "file").read_bytes()
