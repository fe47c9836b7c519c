"""Where a model's files are: a folder as given, or the snapshot of a hub id; weights from safetensors only.

A hub id becomes the folder of its downloaded snapshot first, so that everything after knows only folders.
"""

from __future__ import annotations

import contextlib
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from pipeline import files
from pipeline.errors import ConfigError, SadError, first_line, mended_by
from pipeline.refusals import storage_errors

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
_MAX_NAMES = 5
_KNOCK_SECONDS = 5.0
_COMMIT = re.compile("[0-9a-f]{40}")


def model_folder(reference: str, revision: str | None = None, trust_remote_code: bool = False) -> Path:
    """The folder of a model: `reference` itself, or the snapshot of a hub id, downloaded where it is not yet here."""
    return local_folder(reference) or _downloaded(reference, revision, trust_remote_code)


def local_folder(reference: str) -> Path | None:
    """The folder a reference names, or None for a hub id; ConfigError where it can be no hub id and is no folder."""
    folder = _spelled_out(reference)
    if folder.is_dir():
        return folder
    if _is_path(reference) or folder.exists():
        seen = "" if folder.is_absolute() else f", as seen from {Path.cwd()}"
        raise ConfigError(
            f"{reference}: no such folder; expected one with config.json and safetensors files, or a hub id such as "
            f"HuggingFaceTB/SmolLM2-135M. Check the path{seen}."
        )
    return None


def located(reference: str) -> str:
    """A reference as any library takes it: the path of its folder, ~ written out, or the hub id it is.

    ConfigError as of `local_folder`: libraries would ask the hub for a folder that is not there.
    """
    folder = local_folder(reference)
    return reference if folder is None else str(folder)


def _is_path(reference: str) -> bool:
    """Whether a reference is spelled as no hub id is: those are NAME or OWNER/NAME."""
    return reference.startswith((".", "/", "~")) or reference.endswith("/") or reference.count("/") > 1


def _spelled_out(reference: str) -> Path:
    try:
        return Path(reference).expanduser()
    except RuntimeError:  # ~name, of nobody here
        return Path(reference)


def downloaded_before(reference: str, revision: str | None = None) -> Path | None:
    """The snapshot of a hub id that holds its config and all of its weights already; the hub is not asked."""
    try:
        found = huggingface_hub.try_to_load_from_cache(reference, "config.json", revision=revision)
        if not isinstance(found, str):
            return None
        weight_files(Path(found).parent)
    except (ConfigError, HFValidationError):
        return None
    return Path(found).parent


def is_hub_id(reference: str) -> bool:
    """Whether a reference is no folder and may be a hub id."""
    try:
        return local_folder(reference) is None
    except ConfigError:
        return False


def hub_commit(reference: str, revision: str | None = None) -> str | None:
    """The commit that a revision of a hub id stands for now, or last did here where the hub cannot be asked.

    None for a folder, and for what is no hub id: whoever loads it says so. ConfigError where the hub does not give it.
    """
    if not is_hub_id(reference):
        return None
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    return commit_of(fetch_config(reference, revision))


def commit_of(snapshot: Path) -> str | None:
    """The commit whose files are in a folder of the hub's client, which names it so; None for any other folder."""
    return snapshot.name if _COMMIT.fullmatch(snapshot.name) else None


def hub_unreachable() -> str | None:
    """Why the hub cannot be asked, found in seconds by knocking at its door; None where it opens.

    Behind a proxy nothing is known before something is fetched.
    """
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    address = urllib.parse.urlsplit(huggingface_hub.constants.ENDPOINT)
    if urllib.request.getproxies().get(address.scheme):
        return None
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_KNOCK_SECONDS).close()
    except OSError as error:
        return f"{address.hostname} does not answer ({error.strerror or error})"
    return None


def fetch_config(reference: str, revision: str | None = None) -> Path:
    """The folder of a hub id's config.json, which alone is downloaded where it is not yet here: tells id and hub."""
    with _hub_errors(reference, revision):
        return Path(huggingface_hub.hf_hub_download(reference, "config.json", revision=revision)).parent


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files a model is loaded from; ConfigError where there are none, with what is there instead."""
    found = sorted(path.name for path in folder.iterdir())
    shown = ", ".join(found[:12]) or "nothing"
    if "config.json" not in found:
        raise ConfigError(
            f"{folder}: expected a model folder with config.json, found {shown}. Name that folder, or a hub id."
        )
    if WEIGHTS in found:
        return [folder / WEIGHTS]
    if WEIGHTS_INDEX not in found:
        raise ConfigError(
            f"{folder}: expected {WEIGHTS} (or {WEIGHTS_INDEX} and its parts), found {shown}. Only safetensors are "
            'read: other formats can run code. Convert a model you trust with: python -c "from transformers import '
            f"AutoModelForCausalLM as M; M.from_pretrained('{folder}').save_pretrained('{folder}-safetensors')\" and "
            "copy its tokenizer files there too."
        )
    names = sorted(set(_index(folder).values()))
    missing = [name for name in names if name not in found]
    if missing:
        raise ConfigError(
            f"{folder}: {WEIGHTS_INDEX} names files that are not there: {name_some(missing)}. Copy them too."
        )
    return [folder / name for name in names]


def _downloaded(reference: str, revision: str | None, trust_remote_code: bool) -> Path:
    """Fetch config, weights and nothing else: repositories often hold the same weights in several formats."""

    def fetch(name: str) -> Path:
        return Path(huggingface_hub.hf_hub_download(reference, name, revision=revision))

    with _hub_errors(reference, revision):
        folder = fetch("config.json").parent
        with contextlib.suppress(EntryNotFoundError):
            fetch("generation_config.json")
        try:
            fetch(WEIGHTS)
        except EntryNotFoundError:
            fetch(WEIGHTS_INDEX)
            for name in sorted(set(_index(folder).values())):
                fetch(name)
        if trust_remote_code:
            huggingface_hub.snapshot_download(reference, revision=revision, allow_patterns=["*.py"])
    return folder


@contextlib.contextmanager
def _hub_errors(reference: str, revision: str | None) -> Iterator[None]:
    """ConfigError, or StorageError, that says why the hub does not give what is fetched in the block."""
    try:
        with storage_errors(Path(huggingface_hub.constants.HF_HUB_CACHE)):
            yield
    except LocalEntryNotFoundError as error:
        raise ConfigError(
            f"{reference}: no such folder, and the hub cannot be reached from here. Where there is a network, run "
            f"`hf download {reference} --local-dir DIR`, bring DIR here and name it instead."
        ) from error
    except EntryNotFoundError as error:
        raise ConfigError(
            f"{reference}: this hub repository has no config.json or no safetensors. {error} Only safetensors are "
            "read: choose another revision, or convert the model and name its folder."
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ConfigError(
            f"{reference}: no such folder, and the hub does not give it (revision {revision or 'main'}). {error} Check "
            "the name and revision; for a gated model accept its terms and run `hf auth login`."
        ) from error
    except SadError:
        raise
    except Exception as error:  # what carries the bytes has errors of its own, and which depends on the library
        raise ConfigError(
            f"{reference}: fetching it from the hub broke off: {type(error).__name__}: {first_line(error)}. Run the "
            "same command again: it goes on with what is there."
        ) from error


def _index(folder: Path) -> dict[str, str]:
    """Tensor name -> file name, of a model in several parts; names that leave the folder are refused."""
    with mended_by("Fetch the file again."):
        weight_map = files.read_json(folder / WEIGHTS_INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigError(f"{folder / WEIGHTS_INDEX}: expected an object under 'weight_map'. Fetch the file again.")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ConfigError(
                f"{folder / WEIGHTS_INDEX}: expected names of safetensors files beside it, found {name!r}. "
                "Fetch the file again."
            )
    return weight_map


def name_some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
