"""Where a model's files are: folders that are not models, and hub ids without a hub."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, DamagedDataError, StorageError
from pipeline.models.loading import load_config
from pipeline.models.source import (
    downloaded_before,
    fetch_config,
    is_hub_id,
    local_folder,
    located,
    model_folder,
    weight_files,
)


def test_a_folder_is_its_own_place(llama_folder):
    assert model_folder(str(llama_folder)) == llama_folder
    assert weight_files(llama_folder) == [llama_folder / "model.safetensors"]


def test_a_folder_without_config_names_what_is_there(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json, found nothing"):
        weight_files(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"config\.json, found notes\.txt"):
        weight_files(tmp_path)


def test_a_folder_without_safetensors_says_how_to_convert(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ConfigError, match=r"found config\.json, pytorch_model\.bin\..*save_pretrained"):
        weight_files(tmp_path)


def _write_index(folder: Path, weight_map: object) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_parts_that_are_missing_are_named(tmp_path):
    _write_index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    (tmp_path / "one.safetensors").touch()
    with pytest.raises(ConfigError, match=r"not there: two\.safetensors\."):
        weight_files(tmp_path)
    (tmp_path / "two.safetensors").touch()
    assert [path.name for path in weight_files(tmp_path)] == ["one.safetensors", "two.safetensors"]


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "model.bin", 3])
def test_an_index_cannot_point_elsewhere(tmp_path, name):
    _write_index(tmp_path, {"a": name})
    with pytest.raises(ConfigError, match="names of safetensors files beside it"):
        weight_files(tmp_path)


def test_an_index_that_is_cut_off_says_what_to_do(tmp_path):
    _write_index(tmp_path, {"a": "model.safetensors"})
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DamagedDataError, match=r"index\.json: is not .*\. Fetch the file again"):
        weight_files(tmp_path)


@pytest.mark.parametrize("weight_map", [None, [], {}])
def test_an_index_without_a_map_is_refused(tmp_path, weight_map):
    _write_index(tmp_path, weight_map)
    with pytest.raises(ConfigError, match="weight_map"):
        weight_files(tmp_path)


PATHS = ["./x", "../x", "../nowhere/x", "/nowhere/at/all", "~/nowhere", "~nobody-here/x", "one/two/three", "x/", "a/b/"]


@pytest.mark.parametrize("reference", PATHS)
def test_a_path_that_is_not_there_is_not_looked_up_on_the_hub(reference, monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError(f"the hub was asked: {arguments}")

    for name in ("hf_hub_download", "try_to_load_from_cache", "snapshot_download"):
        monkeypatch.setattr(f"huggingface_hub.{name}", refuse)
    for ask in (model_folder, local_folder, located, lambda name: load_config(name, None)):
        with pytest.raises(ConfigError) as caught:
            ask(reference)
        said = str(caught.value)
        assert said.startswith(f"{reference}: no such folder; expected one with config.json and safetensors files, or ")
        relative = not reference.startswith(("/", "~/"))
        assert said.endswith(f"Check the path, as seen from {Path.cwd()}." if relative else "Check the path.")
    assert not is_hub_id(reference)


def test_what_any_library_takes_is_a_folder_that_is_there_or_a_hub_id(llama_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(llama_folder.parent))
    monkeypatch.chdir(llama_folder.parent)
    assert located(f"~/{llama_folder.name}") == str(llama_folder)
    assert located(f"{llama_folder.name}/") == llama_folder.name
    assert [located(name) for name in ("gpt2", "some/model")] == ["gpt2", "some/model"]


def test_a_hub_id_without_a_network_says_how_to_bring_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"cannot be reached.*hf download someone/some-model --local-dir DIR"):
        model_folder("someone/some-model")


def test_a_name_no_hub_could_have_is_refused():
    with pytest.raises(ConfigError, match="Check the name and revision"):
        model_folder("what a name!")


def test_a_snapshot_in_the_hubs_cache_needs_no_network(tmp_path, monkeypatch, llama_folder):
    """Laid out as the hub's own client does: refs/main names the commit, the snapshot holds the files."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "models--someone--some-model"
    snapshot = home / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (snapshot / name).write_bytes((llama_folder / name).read_bytes())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert model_folder("someone/some-model") == snapshot


def test_a_disk_that_is_full_is_not_blamed_on_the_name(monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    with pytest.raises(StorageError, match="the disk is full"):
        model_folder("someone/some-model")


def test_a_download_that_breaks_off_says_to_run_it_again(monkeypatch):
    """What carries the bytes raises errors of its own libraries, of no kind that a hub's client names."""

    class LostConnection(Exception):
        pass

    def lost(*arguments, **keywords):
        raise LostConnection("peer closed connection without sending complete message body")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", lost)
    with pytest.raises(
        ConfigError, match=r"some-model: fetching .* broke off: LostConnection: peer closed.* same command"
    ):
        model_folder("someone/some-model")


def test_a_reference_is_a_folder_or_a_hub_id_or_nothing(llama_folder, tmp_path):
    assert local_folder(str(llama_folder)) == llama_folder
    assert local_folder("some-person/some-model") is None
    for reference in (str(tmp_path / "gone"), "./gone", "a/b/c"):
        with pytest.raises(ConfigError, match="no such folder; expected one with config"):
            local_folder(reference)


def test_without_a_hub_a_config_is_not_fetched_and_nothing_was_downloaded_before():
    assert downloaded_before("some-person/some-model") is None
    assert downloaded_before("no good//id") is None
    with pytest.raises(ConfigError, match="the hub cannot be reached from here"):
        fetch_config("some-person/some-model")
