"""doctor through the real command, and what the stages refuse at their start on a machine that is not fit."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.console import format_bytes
from pipeline.doctor import examine, facts
from pipeline.doctor.facts import Machine
from pipeline.doctor.libraries import LEAST_VERSIONS
from stages import doctor as stage
from tests import tiny
from tests.doctor.machines import P100, VERSIONS, machine
from tests.stages.toys import REPOSITORY, Toy, copy, run, stamps, status, tree

LINES = ("card", "product", "dtype", "libraries", "memory", "disk", "teacher", "student", "text", "cache", "network")
P100_FIX = 'pip install "torch==2.11.0+cu126" --index-url https://download.pytorch.org/whl/cu126'


def pretend(monkeypatch: pytest.MonkeyPatch, found: Machine) -> None:
    """Let the facts of another machine be gathered, by the command and by the stages."""
    for module in (facts, examine):
        monkeypatch.setattr(module, "gather", lambda folder, thorough=True: found)


def diagnosed(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of the command; stdout must be that object alone."""
    ended = run("doctor", *arguments, "--json")
    return ended.code, json.loads(ended.stdout)


# ------------------------------------------------------------------ this machine


def test_this_machine_is_looked_at_without_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run("doctor")
    assert (ended.code, ended.stdout) == (0, "")
    lines = ended.stderr.splitlines()
    assert [line.split()[1] for line in lines[:-1] if line.split()[0] == "ok"][-1] == "network"
    assert {line.split()[0] for line in lines[:-1]} <= {"ok", "note"}
    assert lines[-1] == f"Fit: {len(lines) - 1} checks, none failed."
    assert "not asked" in lines[-2]
    assert not list(tmp_path.iterdir())


def test_a_config_is_looked_at_too_and_nothing_is_written(toy: Toy, tmp_path: Path) -> None:
    before = stamps(toy.folder)
    ended = toy.ran("doctor", tmp_path / "run")
    words = [line.split()[1] for line in ended.stderr.splitlines()[:-1]]
    assert words[0] == "card"
    assert set(words) - {"library"} == set(LINES)
    assert "about" in ended.stderr
    assert (stamps(toy.folder), list(tmp_path.iterdir())) == (before, [])


def test_json_says_what_the_lines_say(toy: Toy, tmp_path: Path) -> None:
    code, value = diagnosed(*toy.command("doctor", tmp_path / "run")[1:])
    assert (code, value["fit"]) == (0, True)
    assert set(value["checks"][0]) == {"name", "state", "found", "expected", "fix"}
    assert {check["state"] for check in value["checks"]} <= {"ok", "note"}


def test_the_network_is_left_alone_where_no_hub_id_was_given(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError(f"the network was used: {arguments}")

    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    toy.ran("doctor", tmp_path / "run")
    with pytest.raises(AssertionError, match="the network was used"):
        run("doctor", "--online")
    with pytest.raises(AssertionError, match="the network was used"):
        toy.run("doctor", tmp_path / "run", "--set", "teacher.model=some-person/some-model")


def test_offline_is_no_fault_where_nothing_of_the_hub_is_needed(toy: Toy, tmp_path: Path) -> None:
    ended = toy.ran("doctor", tmp_path / "run", "--online")
    assert "note   network   the hub cannot be asked: HF_HUB_OFFLINE is set" in ended.stderr
    ended = toy.run("doctor", tmp_path / "run", "--set", "teacher.model=some-person/some-model")
    assert ended.code == 5
    assert "hf download some-person/some-model --local-dir DIR" in ended.stderr


def test_nobody_is_asked_and_stdin_is_not_read() -> None:
    """With a stdin that never ends, in a process of its own."""
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "stages", "doctor", "--json"],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdin=reading,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert (done.returncode, json.loads(done.stdout)["fit"]) == (0, True)


# ------------------------------------------------------------------ other machines and configs


def test_a_p100_without_kernels_is_the_first_thing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, machine(P100, products=()))
    ended = run("doctor")
    assert ended.code == 5
    first = ended.stderr.splitlines()[0]
    assert first.startswith("fault  card      Tesla P100-PCIE-16GB, capability 6.0")
    assert first.endswith(f"-> {P100_FIX}")
    assert "1 of 6 checks failed." in ended.stderr
    code, value = diagnosed()
    assert (code, value["fit"], value["checks"][0]["fix"]) == (5, False, P100_FIX)


def test_sequences_that_are_longer_than_a_model_is_made_for(toy: Toy, tmp_path: Path) -> None:
    """As cache-teacher would refuse them; both models are told. What is advised helps."""
    options = ("--set", "data.sequence_length=129", "--set", "student.config.max_position_embeddings=64")
    code, value = diagnosed(*toy.command("doctor", tmp_path / "run")[1:], *options)
    wrong = [(check["name"], check["fix"]) for check in value["checks"] if check["state"] == "fault"]
    assert code == 5
    of_teacher, of_student = ("data.sequence_length=128", "student.config.max_position_embeddings=129")
    assert wrong == [("length", f"--set {of_teacher}, or a smaller one"), ("length", f"--set {of_student}")]
    toy.ran("doctor", tmp_path / "run", *options, "--set", of_teacher, "--set", of_student)
    ended = toy.run("cache-teacher", tmp_path / "run", *options, "--set", of_student)
    assert (ended.code, "at most 128" in ended.stderr) == (2, True)


def test_an_existing_student_is_as_it_is(toy: Toy, cached: Path, tmp_path: Path) -> None:
    """And so is a cache that was begun: shorter sequences would be another one."""
    short = tiny.save_model(tmp_path / "short", max_position_embeddings=16)
    options = ("--set", "student.config=null", "--set", f"student.model={short}")
    for run_dir, fix in (
        (tmp_path / "run", "--set data.sequence_length=16, or a smaller one"),
        (copy(cached, tmp_path / "planned"), "another student, or another cache with --run-dir FOLDER"),
    ):
        code, value = diagnosed(*toy.command("doctor", run_dir)[1:], *options)
        assert (code, [check["fix"] for check in value["checks"] if check["state"] == "fault"]) == (5, [fix])


def test_what_a_config_lacks_is_told_all_at_once(toy: Toy, tmp_path: Path) -> None:
    code, value = diagnosed(
        *toy.command("doctor", tmp_path / "run")[1:],
        *("--set", "teacher.model=./gone", "--set", "data.path=nowhere", "--set", "student.config={model_type: lama}"),
    )
    wrong = [check["name"] for check in value["checks"] if check["state"] == "fault"]
    assert (code, wrong) == (5, ["teacher", "student", "text"])


@pytest.mark.parametrize("reference", ["my-teacher/", "../nowhere/x", "./x", "/nowhere/x", "'~/nowhere'"])
def test_a_folder_that_is_not_there_is_not_to_be_downloaded(reference: str, toy: Toy, tmp_path: Path) -> None:
    """Offline, where the hub's models are."""
    ended = toy.run("doctor", tmp_path / "run", "--set", f"teacher.model={reference}")
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("fault")]
    name = reference.strip("'").replace("~", str(Path.home()))
    assert (ended.code, line.startswith(f"fault  teacher   {name}: no such folder; expected ")) == (
        5,
        True,
    )
    assert "hf download" not in ended.stderr


def test_room_can_be_stated(toy: Toy, tmp_path: Path) -> None:
    code, value = diagnosed(*toy.command("doctor", tmp_path / "run")[1:], "--gb", "0.0001")
    [_, room] = [check for check in value["checks"] if check["name"] == "disk"]
    assert (code, room["state"]) == (5, "fault")
    assert room["found"].startswith("100 kB free")


def test_room_that_is_stated_may_be_of_another_disk(toy: Toy, tmp_path: Path) -> None:
    _, value = diagnosed(*toy.command("doctor", tmp_path / "run")[1:], "--gb", "1e6")
    assert all(check["found"].startswith(format_bytes(10**15)) for check in value["checks"] if check["name"] == "disk")


def test_what_eval_names_is_looked_at_too(toy: Toy, tmp_path: Path) -> None:
    """Hours before eval would refuse it; a baseline may be trained by then."""
    arguments = [*toy.command("doctor", tmp_path / "run")[1:], "--set", f"eval.baselines={{other: {tmp_path}/gone}}"]
    code, value = diagnosed(*arguments, "--set", f"eval.teacher={tmp_path / 'moved'}")
    named = {check["name"]: check for check in value["checks"]}
    assert (code, named["eval.teacher"]["state"], named["baseline"]["state"]) == (5, "fault", "note")
    code, value = diagnosed(*arguments, "--set", f"eval.teacher={toy.teacher}")
    assert (code, [check for check in value["checks"] if check["state"] == "fault"]) == (0, [])


@pytest.mark.parametrize("gigabytes", [0.3, 0.71, 1.1])
def test_the_text_that_is_advised_fits(gigabytes: float, toy: Toy, tmp_path: Path) -> None:
    """With what is held out of it to validate on, a fifth more."""
    arguments, found = [*toy.command("doctor", tmp_path / "run")[1:], "--gb", str(gigabytes)], []
    for max_tokens in ("100_000_000", None):
        _, value = diagnosed(*arguments, "--set", f"data.max_tokens={max_tokens or found[0].partition(',')[0]}")
        room = [check for check in value["checks"] if check["name"] == "disk"][-1]
        found += [room["fix"].removeprefix("--set data.max_tokens="), room["state"]]
    assert found[1:] == ["note", "", "ok"]


def test_the_configs_own_limit_is_room_and_what_is_there_counts(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir = copy(cached, tmp_path / "run")
    used = sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file())
    arguments = toy.command("doctor", run_dir)[1:]
    rooms = {}
    for limit in (used + 300_000, used + 3_000_000_000, used // 2):
        _, value = diagnosed(*arguments, "--set", f"session.max_output_gb={limit / 1e9}")
        rooms[limit] = next(check for check in value["checks"] if check["name"] == "disk")
    assert [room["found"].split(" below")[0] for room in rooms.values()] == ["300 kB", "3 GB", "0 bytes"]
    assert [room["state"] for room in rooms.values()] == ["fault", "note", "fault"]


def test_a_finished_cache_needs_neither_teacher_nor_text(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir = copy(cached, tmp_path / "run")
    before = tree(run_dir)
    ended = toy.ran("doctor", run_dir, "--set", "teacher.model=./gone", "--set", "data.path=nowhere")
    assert "9 of 9 shards sealed" in ended.stderr
    assert "0 bytes of cache (0 tokens" in ended.stderr
    assert tree(run_dir) == before


def test_without_a_library_the_rest_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "installed_versions", lambda: VERSIONS | {"zarr": None, "numcodecs": None})
    monkeypatch.setattr(facts, "gather", lambda *_: pytest.fail("gathered"))
    ended = run("doctor")
    assert ended.code == 5
    assert 'zarr is not installed; expected: 3.1.6 or newer -> pip install "zarr>=3.1.6"' in ended.stderr
    assert ended.stderr.splitlines()[-1] == "Nothing else can be looked at without these."


def test_all_that_a_command_begins_without_is_told() -> None:
    """After an installation without dependencies: in a process of its own, which cannot import them."""
    missing = {name: name.replace("-", "_") for name in LEAST_VERSIONS if name not in ("click", "pydantic", "PyYAML")}
    code = f"""
import importlib.metadata, sys
missing, real = {missing}, importlib.metadata.version
def version(name):
    if name in missing:
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.version = version
sys.modules.update(dict.fromkeys(missing.values()))
from stages.cli import main
main(["doctor", "-c", "demo"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    faults = [line.split()[2] for line in done.stderr.splitlines() if line.startswith("fault  library")]
    assert faults == list(missing)


def test_wrong_usage_is_no_matter_of_the_machine(toy: Toy) -> None:
    assert run("doctor", "--set", "train.steps=3").code == 2
    assert run("doctor", "-c", "no-such-config").code == 2
    assert run("doctor", "-c", str(toy.config), "--set", "train.stepps=3").code == 2


# ------------------------------------------------------------------ the stages


@pytest.mark.parametrize("name", ["cache-teacher", "estimate"])
def test_a_stage_is_refused_before_its_first_heavy_step(
    name: str, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, machine(P100, products=()))
    monkeypatch.setattr("pipeline.models.planning.load_model", lambda *_: pytest.fail("loaded"))
    ended = toy.run(name, tmp_path / "run")
    assert ended.code == 5
    assert P100_FIX in ended.stderr
    if name == "cache-teacher":
        assert status(tmp_path / "run")["state"] == "failed"
        assert P100_FIX in status(tmp_path / "run")["message"]
        assert not list((tmp_path / "run").rglob("plan.json"))


def test_a_cache_that_is_half_done_is_refused_too(
    toy: Toy, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = copy(cached, tmp_path / "run")
    for path in sorted(run_dir.glob("cache/shards/*"))[:2]:
        path.unlink()
    before = tree(run_dir / "cache")
    pretend(monkeypatch, dataclasses.replace(machine(P100), versions=VERSIONS | {"numcodecs": "0.15.0"}))
    ended = toy.run("cache-teacher", run_dir)
    assert (ended.code, P100_FIX in ended.stderr, "numcodecs>=0.16.6" in ended.stderr) == (5, True, True)
    assert tree(run_dir / "cache") == before


def test_a_training_is_refused_before_its_student_is_made(
    toy: Toy, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, machine(dataclasses.replace(P100, total_bytes=100_000), built_for=("sm_60",)))
    monkeypatch.setattr("pipeline.distill.learner.load_student", lambda *_: pytest.fail("made"))
    ended = toy.run("train-student", tmp_path / "run", "--set", f"cache.roots=[{cached}]")
    assert (ended.code, "training needs" in ended.stderr) == (5, True)
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_what_is_done_already_needs_no_fit_machine(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished cache is attached in later sessions, where its teacher could not run."""
    copies = copy(cached, tmp_path / "cached"), copy(trained, tmp_path / "trained")
    pretend(monkeypatch, machine(P100, products=()))
    assert "all 9 shards sealed" in toy.ran("cache-teacher", copies[0]).stderr
    roots = ("--set", f"cache.roots=[{copies[0]}]")
    assert "nothing left to do" in toy.ran("train-student", copies[1], *roots).stderr
    ended = toy.run("eval", copies[1], *roots)
    assert (ended.code, P100_FIX in ended.stderr) == (5, True)
