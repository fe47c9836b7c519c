"""Symbolic links in folders that came from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.console import warn_once
from pipeline.errors import DamagedDataError


def tell_links(parent: Path, children: Iterable[str]) -> None:
    """Say which folders below `parent` are links: a search does not follow them."""
    for link in (place for child in children if (place := parent / child).is_symlink()):
        warn_once(f"{link}: is a link to a folder, and not followed; name where it leads as a root of its own")


def refuse_links_out(folder: Path, paths: Iterable[Path]) -> None:
    """Files from elsewhere must not make us read what lies outside of their folder; DamagedDataError names the link.

    Links within `folder` are as good as files, and so are those of a hub download, which lead from its `snapshots` to
    the `blobs` beside them.
    """
    for path in paths:
        if path.is_symlink():
            home, target = folder.resolve(), path.resolve()
            blobs = [above.parent / "blobs" for above in home.parents if above.name == "snapshots"]
            if not {home, *blobs} & set(target.parents):
                raise DamagedDataError(
                    f"{path}: is a symbolic link to {target}, outside {folder}. Put the file itself there"
                )
