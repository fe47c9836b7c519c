"""The notebook as it stands, on a machine laid out like the host's: a session, its outputs attached, another session.

The image is this environment without the project; the wheel is made by the kit's own script and installed by the
notebook, without an index. What is pretended is the end of a session: the host's signal, or a clock that is far on.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from pipeline.config import dump_config, load_config
from stages.config import RunConfig
from tests.kaggle_kit import notebook_code, wheelhouse
from tests.stages.toys import REPOSITORY, Toy, copy, flip_a_bit, stamps, status, tree

pytestmark = pytest.mark.slow
OURS = ("sad_pipeline", "_sad_pipeline", "__editable__", "pipeline", "stages")
STEPS = ("train.steps=400", "train.checkpoint_every=20", "train.evaluate_every=200", "train.log_every=100")


@dataclass(frozen=True, slots=True)
class Host:
    """Where notebooks run: an interpreter with the image's packages, and a folder that they begin in."""

    python: Path
    root: Path

    @property
    def run_dir(self) -> Path:
        """What a session leaves."""
        return self.root / "working" / "run"

    def session(self, interrupted: bool = False, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the notebook's cells as one program, with a stdin that never ends.

        `interrupted` as the host and the editor do it: SIGINT to the notebook and all its children, here as soon as
        there is a checkpoint.
        """
        (self.root / "working").mkdir(exist_ok=True)
        hidden = ("PYTHONPATH", "VIRTUAL_ENV", "SAD_SESSION_START", "KAGGLE_KERNEL_RUN_TYPE")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        reading, writing = os.pipe()
        said, erred = self.root / "stdout", self.root / "stderr"
        try:
            with said.open("w") as out, erred.open("w") as err:
                process = subprocess.Popen(
                    [self.python, "-c", notebook_code()],
                    cwd=self.root / "working",
                    env=environment | {"OMP_NUM_THREADS": "1"} | variables,
                    stdin=reading,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
                if interrupted:
                    while process.poll() is None and not self._has_checkpoint():
                        time.sleep(0.005)
                    os.killpg(process.pid, signal.SIGINT)
                code = process.wait(400)
        finally:
            os.close(reading)
            os.close(writing)
        return subprocess.CompletedProcess([], code, said.read_text(), erred.read_text())

    def _has_checkpoint(self) -> bool:
        return any(self.run_dir.glob("student/checkpoints/step-*/COMMIT.json"))

    def next_session(self, root: Path, *names: str) -> Host:
        """Another machine, to which this one's inputs are attached again, and its output at another depth."""
        shutil.copytree(self.root / "input", root / "input")
        place = root.joinpath("input", *names)
        place.parent.mkdir(parents=True, exist_ok=True)
        copy(self.root / "working", place)
        for path in [place, *place.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        return Host(self.python, root)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has all packages of this one, and not the project."""
    folder, packages = tmp_path_factory.mktemp("image"), tmp_path_factory.mktemp("packages")
    venv.create(folder, with_pip=False)
    for site in (path for path in sys.path if path.endswith(("site-packages", "dist-packages"))):
        for entry in Path(site).iterdir():
            ours = entry.name.startswith(OURS) or entry.suffix == ".pth"
            if not ours and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
    [own] = folder.glob("lib/python*/site-packages")
    (own / "packages.pth").write_text(f"{packages}\n", encoding="utf-8")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def host(image: Path, toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A first session's machine: wheels and a config of one's own are attached."""
    root = tmp_path_factory.mktemp("host")
    wheels = root / "input" / "datasets" / "me" / "sad-pipeline-wheels"
    names = wheelhouse().fill(wheels, (), ("--no-index", "--no-build-isolation"))
    assert len(names) == 1
    (root / "input" / "mine").mkdir()
    config = load_config(RunConfig, toy.config, STEPS)
    (root / "input" / "mine" / "my.yaml").write_bytes(dump_config(config))
    return Host(image, root)


@pytest.fixture(scope="module")
def paused(host: Host) -> subprocess.CompletedProcess[str]:
    """The first session, which the host ends in the middle of the training."""
    return host.session(interrupted=True)


def test_the_image_has_no_project(image: Path) -> None:
    for name in ("pipeline", "stages"):
        code = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
        done = subprocess.run([image, "-I", "-c", code], capture_output=True, text=True, check=True, cwd=image.parent)
        assert done.stdout == "None\n"


def test_a_first_session_pauses_in_its_training(host: Host, paused: subprocess.CompletedProcess[str]) -> None:
    assert paused.returncode == 0, paused.stderr
    assert "Fit: " in paused.stderr
    left = status(host.run_dir)
    assert (left["stage"], left["state"], left["progress"]["of"]) == ("train-student", "paused", 400)
    assert 20 <= left["progress"]["steps"] < 400
    assert "SIGINT was received" in left["message"]
    assert left["stages"]["cache-teacher"]["state"] == "complete"
    assert not (host.run_dir / "eval").exists()
    assert list(host.run_dir.glob("student/checkpoints/step-*/COMMIT.json"))


def test_a_next_session_ends_what_is_attached(
    host: Host, paused: subprocess.CompletedProcess[str], toy: Toy, tmp_path: Path
) -> None:
    second = host.next_session(tmp_path / "second", "notebooks", "me", "sad-pipeline", "1")
    before = tree(second.root / "input"), stamps(second.root / "input")
    done = second.session()
    assert done.returncode == 0, done.stderr
    assert (tree(second.root / "input"), stamps(second.root / "input")) == before
    left = status(second.run_dir)
    assert {name: stage["state"] for name, stage in left["stages"].items()} == {
        "cache-teacher": "complete",
        "train-student": "complete",
        "eval": "complete",
    }
    assert not list(second.run_dir.glob("cache/shards/*.shard")), "what is attached takes no room here"
    assert (second.run_dir / "report" / "report.html").is_file()
    rows = json.loads((second.run_dir / "eval" / "eval.json").read_text(encoding="utf-8"))["rows"]
    assert {"teacher", "student", "initial"} <= {row["kind"] for row in rows}
    assert AutoModelForCausalLM.from_pretrained(str(second.run_dir / "student" / "model")).config.hidden_size == 16

    # In two sessions, on two machines, it became what it becomes in one.
    straight = tmp_path / "straight"
    changes = [word for setting in STEPS for word in ("--set", setting)]
    toy.ran("cache-teacher", straight, *changes)
    toy.ran("train-student", straight, *changes)
    weights = "student/model/model.safetensors"
    assert tree(straight)[weights] == tree(second.run_dir)[weights]


def test_a_session_whose_time_is_over_leaves_all_as_it_is(
    host: Host, paused: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    late = host.next_session(tmp_path / "late", "sad-pipeline")
    done = late.session(SAD_SESSION_START=str(time.time() - 11 * 3600))
    assert done.returncode == 0, done.stderr
    left = status(late.run_dir)
    assert (left["stage"], left["state"]) == ("train-student", "paused")
    assert left["progress"] == status(host.run_dir)["progress"]
    assert "the time budget is nearly spent: of 11 h" in left["message"]
    assert not (late.run_dir / "student" / "checkpoints").exists()


def test_a_session_in_which_a_stage_fails_at_once_is_no_success(
    host: Host, paused: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    broken = host.next_session(tmp_path / "broken", "sad-pipeline")
    for shard in (broken.root / "input").rglob("shards/*.shard"):
        shard.chmod(0o644)
        flip_a_bit(shard)
    done = broken.session()
    assert done.returncode != 0
    assert "RuntimeError: nothing is sealed or saved; exit code 4: what mends it is said above" in done.stderr
    assert status(broken.run_dir)["state"] == "failed"


def test_a_session_in_which_a_stage_fails_later_keeps_what_it_made(host: Host, tmp_path: Path) -> None:
    """Here something lies in the way of the student; the cache is whole by then."""
    broken = Host(host.python, tmp_path)
    shutil.copytree(host.root / "input", tmp_path / "input")
    broken.run_dir.mkdir(parents=True)
    (broken.run_dir / "student").touch()
    done = broken.session()
    assert done.returncode == 0, done.stderr
    assert "FAILED, exit code 7 (below 0: killed): what failed, and what to do next, is said above" in done.stdout
    left = status(broken.run_dir)
    assert (left["stage"], left["state"]) == ("train-student", "failed")
    assert left["stages"]["cache-teacher"]["state"] == "complete"


def test_a_session_that_cannot_work_ends_before_it_begins(host: Host, tmp_path: Path) -> None:
    third = Host(host.python, tmp_path)
    shutil.copytree(host.root / "input", tmp_path / "input")
    config = next((tmp_path / "input").rglob("my.yaml"))
    config.write_text(config.read_text(encoding="utf-8").replace("/teacher", "/gone"))
    done = third.session()
    assert done.returncode != 0
    assert "nothing is sealed or saved" in done.stderr
    assert "fault  teacher" in done.stderr
    assert not third.run_dir.exists()


def test_a_session_without_wheels_says_what_is_missing(image: Path, tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    folder = tmp_path / "bare"
    venv.create(folder, with_pip=False)
    [own] = folder.glob("lib/python*/site-packages")
    [packages] = image.parents[1].glob("lib/python*/site-packages/packages.pth")
    shutil.copy(packages, own)
    done = Host(folder / "bin" / "python", tmp_path).session()
    assert done.returncode != 0
    assert "sad-pipeline" in done.stderr
    assert "nothing is sealed or saved" in done.stderr
    assert str(REPOSITORY) not in done.stdout + done.stderr
