"""How much a run may leave on disk, and how much the disk has room for.

What a run may leave is counted by ourselves: `df` of a notebook host speaks of a disk that is not kept. What is free is
asked of the disk: before work whose result would not fit, not after it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.console import format_bytes
from pipeline.errors import ConfigError
from pipeline.folders import walk
from pipeline.machine import free_below

KEY = "session.max_output_gb"
_ON_THE_DISK = "Nothing is lost: make room there, and run the same command again."


@dataclass(frozen=True, slots=True)
class OutputLimit:
    """What all files below `folders` may take together; None allows everything, and then nothing is counted.

    The first of the folders is the one that is written to; its disk is asked with a limit and without.
    """

    max_bytes: int | None = None
    folders: tuple[Path, ...] = ()

    def used_bytes(self) -> int:
        """What lies below the folders now; one that lies in another is counted once."""
        return sum(map(folder_bytes, _outermost(self.folders)))

    def shortage(self, needed_bytes: float, what: str, way_on: str, outlook: str = "") -> str | None:
        """Why there is no room for `what`, with figures, the `outlook` and the way on; None where there is.

        `way_on` is that of the limit; on a full disk there is one for all.
        """
        if self.max_bytes is not None and (used_bytes := self.used_bytes()) + needed_bytes > self.max_bytes:
            return (
                f"the limit of {KEY} is reached: of {figure(self.max_bytes)}, {figure(used_bytes)} are taken in "
                f"{self.where}, and {what} needs up to {figure(needed_bytes)} more. {outlook}{way_on}"
            )
        free_bytes = free_below(self.folders[0]) if self.folders else None
        if free_bytes is None or needed_bytes <= free_bytes:
            return None
        return (
            f"the disk has no room: {figure(free_bytes)} are free where {self.folders[0]} is, and {what} needs up to "
            f"{figure(needed_bytes)}. {outlook}{_ON_THE_DISK}"
        )

    def refuse_less_than(self, needed_bytes: float, what: str, fix: str) -> None:
        """ConfigError where an empty folder would not have room for `what` either."""
        if self.max_bytes is not None and needed_bytes > self.max_bytes:
            raise ConfigError(
                f"{KEY}: {figure(self.max_bytes)} are allowed, and {what} alone needs up to {figure(needed_bytes)}. "
                f"{fix}"
            )

    @property
    def where(self) -> str:
        """The folders, in words."""
        return " and ".join(map(str, self.folders))


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder, 0 where there is none; what a link leads to lies elsewhere.

    StorageError for a folder that cannot be listed: what is in it takes room.
    """
    size_bytes = 0
    for parent, _, names in walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # another process may tidy up meanwhile
                size_bytes += os.lstat(os.path.join(parent, name)).st_size
    return size_bytes


def figure(num_bytes: float) -> str:
    """Bytes in words, gigabytes to the hundredth: close to a limit three digits would hide what is left."""
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e9 else format_bytes(num_bytes)


def _outermost(folders: Iterable[Path]) -> Iterator[Path]:
    """The folders that do not lie in another one of them."""
    places = {folder.resolve() for folder in folders}
    yield from (place for place in places if not places.intersection(place.parents))
