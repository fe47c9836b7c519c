"""The quick form: what a stage refuses before its first heavy step, what it says, and how little it takes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cache.settings import CacheSettings
from pipeline.distill.settings import TrainSettings
from pipeline.doctor import examine, facts
from pipeline.doctor.examine import refuse_unfit, refuse_unfit_for_student, refuse_unfit_for_teacher
from pipeline.doctor.facts import Machine
from pipeline.errors import MachineError
from pipeline.machine import Disk, HostMemory
from pipeline.models.settings import StudentSettings, TeacherSettings
from tests import tiny
from tests.doctor.machines import CPU, GB, P100, T4, machine

CACHE, TRAIN = CacheSettings(), TrainSettings(steps=2)


def pretend(monkeypatch: pytest.MonkeyPatch, found: Machine) -> None:
    """Let the facts of another machine be gathered."""
    quick = dataclasses.replace(found, products=(), driver=None)
    monkeypatch.setattr(examine, "gather", lambda folder, thorough: pytest.fail("thorough") if thorough else quick)


def starts(llama_folder: Path) -> dict[str, Callable[[], None]]:
    """How the stages begin."""
    teacher, student = TeacherSettings(model=str(llama_folder)), StudentSettings(model=str(llama_folder))
    return {
        "teacher": lambda: refuse_unfit_for_teacher(Path("run"), teacher, CACHE),
        "student": lambda: refuse_unfit_for_student(Path("run"), student, TRAIN, tiny.VOCAB_SIZE),
        "any": lambda: refuse_unfit(Path("run"), "auto"),
    }


@pytest.mark.parametrize("start", ["teacher", "student", "any"])
def test_a_p100_without_kernels_is_refused_by_every_stage(
    start: str, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, machine(P100))
    with pytest.raises(MachineError, match=r'capability 6\.0.*pip install "torch==2\.11\.0\+cu126"') as refusal:
        starts(llama_folder)[start]()
    assert refusal.value.exit_code == 5
    assert "sad-pipeline doctor" in str(refusal.value)


@pytest.mark.parametrize("start", ["teacher", "student", "any"])
def test_an_old_library_is_refused_by_every_stage(
    start: str, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, dataclasses.replace(CPU, versions={**CPU.versions, "numcodecs": "0.15.1"}))
    with pytest.raises(MachineError, match=r'numcodecs 0\.15\.1.*pip install "numcodecs>=0\.16\.6"'):
        starts(llama_folder)[start]()


@pytest.mark.parametrize("start", ["teacher", "student", "any"])
def test_a_fit_machine_is_said_nothing(
    start: str, llama_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor one with little disk, an older pyarrow and a second card: those are told by the doctor."""
    versions = {**machine(T4).versions, "pyarrow": "18.1.0"}
    low = machine(T4, T4, disk=Disk(Path("run"), 10_000_000, True), versions=versions)
    for found in (CPU, machine(T4), low):
        pretend(monkeypatch, found)
        starts(llama_folder)[start]()
    assert capsys.readouterr().err == ""


def test_a_precision_the_card_lacks_is_refused_before_weights_are_read(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, machine(T4))
    teacher = TeacherSettings(model=str(llama_folder), dtype="bfloat16")
    with pytest.raises(MachineError, match=r"--set teacher\.dtype=float16"):
        refuse_unfit_for_teacher(Path("run"), teacher, CACHE)
    settings = TRAIN.model_copy(update={"dtype": "bfloat16"})
    with pytest.raises(MachineError, match=r"--set train\.dtype=float16"):
        refuse_unfit_for_student(Path("run"), StudentSettings(model=str(llama_folder)), settings, 300)


def test_a_model_too_large_is_refused_by_its_config(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_card = machine(dataclasses.replace(T4, total_bytes=1_000_000, free_bytes=900_000))
    pretend(monkeypatch, tiny_card)
    for start, what in (("teacher", "capture needs"), ("student", "training needs")):
        with pytest.raises(MachineError, match=what):
            starts(llama_folder)[start]()


def test_memory_that_others_hold_is_told_once(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.console._said", set())
    pretend(monkeypatch, dataclasses.replace(CPU, memory=HostMemory(31 * GB, 1000)))
    start = starts(llama_folder)["student"]
    start()
    start()
    assert capsys.readouterr().err.count("end other programs on this machine") == 1


def test_models_that_cannot_be_looked_at_are_left_to_the_stage(tmp_path: Path) -> None:
    """Which refuses them in its own words, with the exit code of a wrong config."""
    gone = str(tmp_path / "gone")
    refuse_unfit_for_teacher(tmp_path, TeacherSettings(model=gone), CACHE)
    refuse_unfit_for_student(tmp_path, StudentSettings(model=gone), TRAIN, 300)
    refuse_unfit_for_student(tmp_path, StudentSettings(config={"model_type": "lama"}), TRAIN, 300)


def test_it_takes_no_time_and_computes_nothing(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "multiply", lambda *_: pytest.fail("multiplied"))
    for name, start in starts(llama_folder).items():
        start()  # imports the architecture
        took = []
        for _ in range(5):
            begun = time.process_time()
            start()
            took.append(time.process_time() - begun)
        assert min(took) < 0.2, name
