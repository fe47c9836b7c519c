"""What makes a model that model: its config and the bytes of its weights, wherever they lie.

The full fingerprint hashes every byte and goes into the plan. Later starts compare its quick part, which reads a
header and a few samples of each file: gigabytes are not read again to continue a run.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO, Any

from pipeline import files
from pipeline.models.source import hub_commit, model_folder, weight_files

_SAMPLES = 16
_SAMPLE_BYTES = 64 * 1024


def fingerprint(reference: str, revision: str | None = None) -> dict[str, Any]:
    """`quick_fingerprint` and the SHA-256 of every weight file; of a hub id also its commit, to find them again."""
    quick = quick_fingerprint(reference, revision)
    for path in weight_files(model_folder(reference, revision)):
        quick["files"][path.name]["sha256"] = files.sha256_file(path)
    if commit := hub_commit(reference, revision):
        quick["hub"] = {"model": reference, "revision": commit}
    return quick


def quick_fingerprint(reference: str, revision: str | None = None) -> dict[str, Any]:
    """SHA-256 of config.json, and of each weight file its size and the SHA-256 of samples of its bytes.

    Other weights of the same shapes have the same size and header, so samples from all over the file are read too.
    """
    folder = model_folder(reference, revision)
    return {
        "config_sha256": files.sha256_file(folder / "config.json"),
        "files": {path.name: _quick_identity(path) for path in weight_files(folder)},
    }


def quick_part(full: dict[str, Any]) -> dict[str, Any]:
    """What `quick_fingerprint` would say of the model that a full fingerprint was taken of, wherever it lies."""
    parts = {
        name: {key: value for key, value in identity.items() if key != "sha256"}
        for name, identity in full["files"].items()
    }
    return {key: value for key, value in full.items() if key != "hub"} | {"files": parts}


def _quick_identity(path: Path) -> dict[str, Any]:
    size_bytes = path.stat().st_size
    with open(path, "rb") as file:
        return {"size_bytes": size_bytes, "samples_sha256": _hash_samples(file, size_bytes)}


def _hash_samples(file: IO[bytes], size_bytes: int) -> str:
    """SHA-256 over evenly spaced pieces, the first (with the header) and the last byte among them."""
    last_start = max(0, size_bytes - _SAMPLE_BYTES)
    hasher = hashlib.sha256()
    for index in range(_SAMPLES):
        file.seek(last_start * index // (_SAMPLES - 1))
        hasher.update(file.read(_SAMPLE_BYTES))
    return hasher.hexdigest()
