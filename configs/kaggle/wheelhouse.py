"""Fill a folder with wheels for sessions without internet: this project, and what the notebook image lacks.

    python configs/kaggle/wheelhouse.py wheels

Run it where there is a network, with Python 3.11 or newer, and upload the folder as a data set. What the image
comes with (image.txt) bounds the versions and is never among the wheels, so that it stays as it is.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
IMAGE = HERE / "image.txt"
PYTHONS = ("3.12", "3.13")
"""of the image, now and soon"""
_PIP = (sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check")
_NEWEST_GLIBC, _OLDEST_GLIBC = 35, 17  # 2.35 is the image's


def main(arguments: Sequence[str] | None = None) -> None:
    """Build and download."""
    parser = argparse.ArgumentParser(description="Fill a folder with wheels for sessions without internet.")
    parser.add_argument("folder", type=Path, help="where the wheels go")
    parser.add_argument("--python", action="append", metavar="3.X", help=f"of the image  [{' and '.join(PYTHONS)}]")
    options = parser.parse_args(arguments)
    fill(options.folder, options.python or PYTHONS)


def fill(folder: Path, pythons: Sequence[str], more: Sequence[str] = ()) -> list[str]:
    """Names of the wheels that are in the folder then; `more` are further options for each pip command."""
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in folder.glob("sad_pipeline-*.whl"):
        wheel.unlink()
    for command in commands(folder, pythons):
        subprocess.run([*command, *more], check=True, stdin=subprocess.DEVNULL)
    for wheel in of_the_image(folder):
        wheel.unlink()
    names = sorted(wheel.name for wheel in folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in folder.glob("*.whl")) / 1e6
    print(f"{len(names)} wheels, {size:.1f} MB in {folder}:", *names, sep="\n  ")
    return names


def commands(folder: Path, pythons: Sequence[str]) -> Iterator[list[str]]:
    """What pip is told: the project's own wheel, then for each Python what the image lacks, and what that needs."""
    yield [*_PIP, "wheel", "--no-deps", f"--wheel-dir={folder}", str(PROJECT)]
    systems = [f"--platform=manylinux_2_{minor}_x86_64" for minor in range(_NEWEST_GLIBC, _OLDEST_GLIBC - 1, -1)]
    for python in pythons:
        target = [f"--python-version={python}", "--implementation=cp", *systems, "--platform=manylinux2014_x86_64"]
        options = [f"--dest={folder}", "--only-binary=:all:", f"--constraint={IMAGE}"]
        yield [*_PIP, "download", *options, *target, *lacking()]


def lacking() -> list[str]:
    """The project's requirements that the image does not meet, in the versions that its tests run on."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tested = {_name(line): line for line in _lines(PROJECT / "constraints.txt")}
    return [tested[_name(text)] for text in project["dependencies"] if _name(text) not in image_names()]


def image_names() -> set[str]:
    """What the image comes with."""
    return {_name(line) for line in _lines(IMAGE)}


def of_the_image(folder: Path) -> list[Path]:
    """Wheels that came along because something needs them, and that the image has."""
    return [wheel for wheel in sorted(folder.glob("*.whl")) if _name(wheel.name) in image_names()]


def _lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _name(text: str) -> str:
    """The project that a requirement, or the name of a wheel, speaks of; as all ways to write it are compared."""
    found = re.match(r"\s*([A-Za-z0-9._]+(?:-(?!\d)[A-Za-z0-9._]+)*)", text)
    assert found, f"{text!r} names no project"
    return re.sub(r"[-_.]+", "-", found[1]).lower()


if __name__ == "__main__":
    main()
