"""The wheel works alone: built, looked into, installed outside the checkout, and run from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from pipeline import __version__
from stages.config import bundled_configs
from tests.source_tree import ROOT

pytestmark = pytest.mark.slow

TINY_MODEL = (
    "{model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, "
    "max_position_embeddings: 64}"
)
TOY_DEMO = {
    "data.max_documents": "24",
    "data.validation_fraction": "0.2",
    "data.max_tokens": "20_000",
    "data.sequence_length": "64",
    "cache.head_size": "16",
    "cache.shard_positions": "4_000",
    "student.config": TINY_MODEL,
    "train.steps": "4",
    "train.batch_size": "4",
    "train.warmup_steps": "1",
    "train.evaluate_every": "2",
    "train.validation_sequences": "4",
    "eval.max_sequences": "8",
    "eval.sample_tokens": "4",
    "demo.vocab_size": "320",
    "demo.teacher": TINY_MODEL,
    "demo.teacher_steps": "4",
    "demo.teacher_batch_size": "4",
}


def run(*command: str | Path, cwd: Path, timeout_seconds: float = 300) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment | {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    assert result.returncode == 0, f"{command} ended with {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built offline from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", "wheel", *options, ROOT, cwd=folder)
    [found] = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the commands of another environment: this one's packages, and the wheel in place of the checkout.

    A .pth file adds the packages' folder and not what its own .pth files add, so an editable install stays unseen.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder, with_pip=False)
    [packages] = folder.glob("lib/python*/site-packages")
    ours = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "packages.pth").write_text("\n".join(ours) + "\n", encoding="utf-8")
    options = ("--no-deps", "--no-index", "--ignore-installed", "--no-compile")
    run(sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", *options, wheel, cwd=folder)
    return folder / "bin"


def test_the_wheel_holds_the_project_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names} == {"pipeline", "stages", f"sad_pipeline-{__version__}.dist-info"}
    sources = {
        path.relative_to(ROOT).as_posix()
        for folder in ("pipeline", "stages")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in (".py", ".css")
    }
    assert sources <= names
    assert {name for name in names if name.startswith("stages/configs/")} == {
        f"stages/configs/{name}.yaml" for name in bundled_configs()
    }
    assert not {name for name in names if "__pycache__" in name or name.endswith(".pyc")}


def test_the_wheel_claims_only_lower_bounds(wheel: Path) -> None:
    """What a notebook image comes with must stay, so nothing is pinned or bounded from above."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
    assert (metadata["Name"], metadata["Version"]) == ("sad-pipeline", __version__)
    required = [text for text in metadata.get_all("Requires-Dist") or [] if "extra ==" not in text]
    assert {"torch", "numpy", "pyarrow", "zarr"} <= {text.split(">=")[0] for text in required}
    assert all(">=" in text and not set(text) & set("<~!") and "==" not in text for text in required)


def test_the_installed_command_is_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = "import pipeline, stages.cli, sys; print(pipeline.__file__, stages.cli.__file__, *sys.path, sep='\\n')"
    found = run(installed / "python", "-c", code, cwd=tmp_path).stdout.splitlines()
    assert all(Path(path).is_relative_to(installed.parent) for path in found[:2])
    assert str(ROOT) not in found[2:]


def test_the_installed_command_says_its_version_and_its_configs(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "sad-pipeline", "--version", cwd=tmp_path).stdout == f"sad-pipeline, version {__version__}\n"
    code = "from stages.config import *; print(*(load_run_config(name).name for name in bundled_configs()))"
    assert run(installed / "python", "-c", code, cwd=tmp_path).stdout.split() == list(bundled_configs())


def test_the_installed_demo_runs(installed: Path, tmp_path: Path) -> None:
    settings = [word for key, value in TOY_DEMO.items() for word in ("--set", f"{key}={value}")]
    result = run(installed / "sad-pipeline", "demo", *settings, cwd=tmp_path)
    assert result.stdout == ""
    assert "Done in" in result.stderr
    root = tmp_path / "artifacts" / "demo"
    assert json.loads((root / "status.json").read_text(encoding="utf-8"))["state"] == "complete"
    for name in ("config.yaml", "cache/plan.json", "student/model/model.safetensors", "report/report.html"):
        assert (root / name).is_file(), name
    assert {path.name for path in tmp_path.iterdir()} == {"artifacts"}
    assert not list(tmp_path.rglob("*.tmp"))
