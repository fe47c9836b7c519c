"""Which local files a source consists of, and what each is called independently of where it lies."""

from __future__ import annotations

import glob
import sysconfig
from collections import Counter, deque
from pathlib import Path

from pipeline.data.settings import DataSettings
from pipeline.errors import ConfigError
from pipeline.folders import walk

_SUFFIXES = {
    "stdlib": (".py",),
    "text": ("",),
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"),
    "parquet": (".parquet",),
    "hub": ("",),
}
_OR_ELSE = {"jsonl": (".json", ".json.gz")}  # where a folder has none of the former: beside them it may be anything
_NOT_STDLIB = frozenset({"site-packages", "dist-packages", "__pycache__"})


def is_local(settings: DataSettings) -> bool:
    """Whether the source lies on this machine; a folder may be named in place of a hub dataset."""
    return settings.source != "hub" or (settings.dataset is not None and Path(settings.dataset).is_dir())


def source_files(settings: DataSettings) -> dict[str, Path]:
    """Name -> file, sorted by name; names are relative to the folder, or to the fixed part of the glob pattern.

    Hidden files and folders are left out. ConfigError if there is nothing to read.
    """
    suffixes = _SUFFIXES[settings.source]
    if settings.source == "stdlib":
        return _files_below(Path(sysconfig.get_path("stdlib")), suffixes, without=_NOT_STDLIB)
    key, location = settings.place
    assert location is not None, "DataSettings refuses a source without its place"
    path = Path(location).expanduser()
    if path.is_file():
        return {path.name: path}
    if path.is_dir():
        others = _OR_ELSE.get(settings.source, ())
        return _files_below(path, suffixes) or _files_below(path, others) or _refuse_folder(key, path, suffixes)
    return _matching_files(path) or _refuse_path(location)


def _files_below(folder: Path, suffixes: tuple[str, ...], without: frozenset[str] = frozenset()) -> dict[str, Path]:
    """Each file below a folder, links to folders followed.

    A folder is walked once: one that lies there itself under its own name, before any link to it. So a link to a
    folder above it ends, and no text is read twice.
    """
    found: dict[str, Path] = {}
    seen: set[Path] = set()
    waiting = deque([folder])
    while waiting:
        for parent, folders, names in walk(waiting.popleft()):
            place = Path(parent).resolve()
            if place in seen:
                folders.clear()
                continue
            seen.add(place)
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in without)
            waiting.extend(path for name in folders if (path := Path(parent, name)).is_symlink())
            wanted = [name for name in names if name.endswith(suffixes) and not name.startswith(".")]
            paths = (Path(parent, name) for name in wanted)
            found |= {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}
    return dict(sorted(found.items()))


def _matching_files(pattern: Path) -> dict[str, Path]:
    fixed = Path()
    for part in pattern.parts:
        if glob.has_magic(part):
            break
        fixed /= part
    matches = [Path(match) for match in glob.glob(str(pattern), recursive=True)]
    return dict(sorted((path.relative_to(fixed).as_posix(), path) for path in matches if path.is_file()))


def _refuse_folder(key: str, folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    endings = Counter(Path(name).suffix or "(none)" for name in _files_below(folder, ("",)))
    inside = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(5)) or "no file at all"
    wanted = " or ".join(suffixes).strip() or "text"
    raise ConfigError(
        f"{key} {folder}: expected {wanted} files in this folder, found {inside}. Point {key} at the right "
        "folder, or set data.source to what it holds (text, jsonl or parquet); unpack what is packed, but for .gz."
    )


def _refuse_path(path: str) -> dict[str, Path]:
    raise ConfigError(
        f"data.path {path}: no such file or folder, and no file matches it as a pattern (seen from {Path.cwd()}). "
        "Name one that is there, absolute or as seen from that folder."
    )
