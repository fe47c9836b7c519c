"""Results in JSON name the digest of their own content, so that no figure of them changes unnoticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.errors import DamagedDataError


def with_digest(value: dict[str, Any]) -> dict[str, Any]:
    """The same, with the digest beside it of what a file of it is read as."""
    return value | {"digest": files.digest_json(json.loads(files.canonical_json(value)))}


def check_digest(value: dict[str, Any], path: Path, fix: str) -> None:
    """DamagedDataError where the digest is of other content. Older files have none."""
    rest = {key: part for key, part in value.items() if key != "digest"}
    if "digest" in value and value["digest"] != files.digest_json(rest):
        raise DamagedDataError(f"{path}: its content does not have the digest it names. {fix}")
