"""Fingerprints: any changed byte shows in the full one, retrained weights also in the quick one."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.models.fingerprint import fingerprint, quick_fingerprint, quick_part


@pytest.fixture
def folder(llama_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(llama_folder, tmp_path / "model"))


def test_it_holds_the_hashes_of_the_bytes_and_no_path(folder):
    weights = (folder / "model.safetensors").read_bytes()
    found = fingerprint(str(folder))
    assert found["config_sha256"] == hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    assert found["files"]["model.safetensors"]["size_bytes"] == len(weights)
    assert found["files"]["model.safetensors"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert str(folder) not in repr(found)
    assert quick_part(found) == quick_fingerprint(str(folder))


def test_the_same_model_elsewhere_is_the_same(folder, llama_folder):
    assert fingerprint(str(folder)) == fingerprint(str(llama_folder))


def test_retrained_weights_of_the_same_shapes_differ_quickly(folder):
    before = quick_fingerprint(str(folder))
    weights = {name: weight + 1e-3 for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert quick_fingerprint(str(folder)) != before


def test_samples_reach_past_the_beginning_of_a_file(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    weights = torch.arange(2**20, dtype=torch.float32)
    save_file({"w": weights}, tmp_path / "model.safetensors")
    before = quick_fingerprint(str(tmp_path))
    weights[2**19 :] += 1
    save_file({"w": weights}, tmp_path / "model.safetensors")
    assert quick_fingerprint(str(tmp_path)) != before


def test_a_changed_config_differs(folder):
    before = quick_fingerprint(str(folder))
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert quick_fingerprint(str(folder)) != before


def test_one_byte_of_a_large_file_shows_in_the_full_one(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.arange(2**20, dtype=torch.float32)}, path)
    before = fingerprint(str(tmp_path))
    with open(path, "r+b") as file:
        file.seek(100_000)
        file.write(b"\xff\xff\xff")
    assert fingerprint(str(tmp_path)) != before
