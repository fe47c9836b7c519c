"""What a config asks, held against machines: precision, memory by the estimate's formulae, room on disk."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cache.settings import CacheSettings
from pipeline.distill.keeping.checkpoint import checkpoint_bytes
from pipeline.distill.learner import Learner
from pipeline.doctor.asked import Asked, AskedCache, AskedModel, Found
from pipeline.doctor.check import Check, faults
from pipeline.doctor.examine import device_of, examine
from pipeline.machine import Disk, HostMemory
from pipeline.models import CausalModel
from pipeline.models.sizes import ModelSize, size_of_block
from pipeline.pricing.memory import all_checkpoints_bytes
from pipeline.pricing.rough import rough_bytes_per_token
from pipeline.pricing.training import memory_of
from stages.config import load_run_config
from tests import tiny
from tests.doctor.machines import A100, CPU, GB, P100, T4, WHEEL_12_6, machine
from tests.test_configs import SMOLLM2_135M, stated

SMOLLM2_1_7B = SMOLLM2_135M | {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
V = 49_152
ON_P100 = machine(P100, built_for=WHEEL_12_6)


def of_kaggle(**changes: Any) -> Asked:
    """What the config kaggle-p100 asks, with both models here and no plan yet."""
    config = load_run_config("kaggle-p100")
    teacher = AskedModel("teacher", "auto", "float16", Found("a folder"), size=size_of_block(SMOLLM2_1_7B, V))
    student = AskedModel("student", "auto", "float16", Found("a folder"), size=size_of_block(SMOLLM2_135M, V))
    cache = AskedCache(
        Found("none yet"), tokens_left=30_150_000, bytes_per_token=rough_bytes_per_token(config.cache, V)
    )
    asked = Asked(teacher, student, Found("the text"), cache, config.cache, config.train)
    return dataclasses.replace(asked, **changes)


def checks_of(found: Any, asked: Asked, name: str) -> list[Check]:
    return [check for check in examine(found, asked) if check.name == name]


# ------------------------------------------------------------------ what its pages say


def test_the_doctor_says_what_the_config_of_a_p100_states() -> None:
    checks = examine(ON_P100, of_kaggle())
    assert not faults(checks)
    capture, training = [check.found for check in checks if check.name == "memory"][1:]
    assert "3.42 GB of weights" in capture  # 3,423 MB, as its comments have it
    assert f"{stated('kaggle-p100', 'known parts') / 1e3:.3g} GB" in training
    [_, disk] = [check for check in checks if check.name == "disk"]
    cache, checkpoints, model = (stated("kaggle-p100", what) for what in ("cache", "checkpoints", "model"))
    [said] = re.findall(r"([\d.]+) GB of checkpoints and model", disk.found)
    assert float(said) == pytest.approx((checkpoints + model) / 1e3, abs=0.006)  # each of them is rounded
    assert rough_bytes_per_token(load_run_config("kaggle-p100").cache, V) == pytest.approx(
        cache * 1e6 / 28.14e6, rel=0.01
    )


def test_a_checkpoint_takes_what_a_learner_says(llama_folder: Path) -> None:
    for decay in (0.0, 0.9):
        settings = load_run_config("demo").train.model_copy(update={"ema_decay": decay})
        learner = Learner(CausalModel(tiny.make_model(), tiny.VOCAB_SIZE), settings, 1, torch.float32)
        assert checkpoint_bytes(settings, learner.checkpoint_bytes // (3 + (decay > 0))) == learner.checkpoint_bytes


def test_memory_by_sizes_is_memory_by_a_learner() -> None:
    settings = load_run_config("demo").train
    model = tiny.make_model()
    learner = Learner(CausalModel(model, tiny.VOCAB_SIZE), settings, 1, torch.float32)
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    counted = memory_of(learner, weights).known_parts
    block = tiny.ARCHITECTURES["llama"] | {"model_type": "llama"}
    student = AskedModel("student", "cpu", "auto", Found("fresh"), size=size_of_block(block, tiny.VOCAB_SIZE))
    assert student.size == ModelSize(weights // 4, tiny.VOCAB_SIZE, tiny.VOCAB_SIZE * 32, max_positions=128)
    tight = dataclasses.replace(CPU, memory=HostMemory(counted - 1, counted - 1))
    exact = dataclasses.replace(CPU, memory=HostMemory(counted, counted))
    asked = Asked(student=student, train_settings=settings)
    assert [check.state for check in checks_of(tight, asked, "memory")[1:]] == ["fault"]
    assert [check.state for check in checks_of(exact, asked, "memory")[1:]] == ["ok"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 341.5 + 2),
        ({"num_draws": 16}, 307 + 2),
        ({"precision": "small"}, 291 + 2),
        ({"precision": "lossless"}, 992 + 2),
        ({"kind": "compact"}, 107 + 2),
        ({"kind": "sampled"}, 40 + 2),
        ({"head_size": 128}, 128 + 85 + 2),
    ],
)
def test_rough_bytes_are_those_that_were_measured(values: dict[str, Any], expected: float) -> None:
    assert rough_bytes_per_token(CacheSettings(**values), V) == pytest.approx(expected, abs=1.5)
    assert rough_bytes_per_token(CacheSettings(**values), 151_936) == pytest.approx(expected + 2, abs=1.5)


# ------------------------------------------------------------------ precision


def test_bfloat16_on_turing_is_refused_with_the_key() -> None:
    asked = of_kaggle()
    assert asked.teacher is not None
    assert asked.student is not None
    teacher, student = (dataclasses.replace(model, dtype="bfloat16") for model in (asked.teacher, asked.student))
    [fault] = faults(examine(machine(T4), dataclasses.replace(asked, teacher=teacher)))
    assert fault.fix == "--set teacher.dtype=float16, or float32 where float16 overflows"
    assert "Tesla T4, capability 7.5" in fault.found
    [fault] = faults(examine(machine(T4), dataclasses.replace(asked, student=student)))
    assert fault.fix.startswith("--set train.dtype=float16")
    planned = dataclasses.replace(teacher, planned=True)
    [fault] = faults(examine(machine(T4), dataclasses.replace(asked, teacher=planned)))
    assert "--run-dir" in fault.fix
    assert not faults(examine(machine(A100), dataclasses.replace(asked, teacher=teacher, student=student)))
    assert not faults(examine(CPU, dataclasses.replace(asked, teacher=teacher, student=student)))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_config_that_says_where_to_run_is_heard(device: Any) -> None:
    asked = of_kaggle()
    assert asked.teacher is not None
    assert asked.student is not None
    teacher, student = (dataclasses.replace(model, device=device) for model in (asked.teacher, asked.student))
    there = dataclasses.replace(asked, teacher=teacher, student=student)
    assert device_of(there) == device
    without, unusable = examine(CPU, there), examine(machine(P100, products=()), there)
    assert [check.name for check in faults(without)] == (["card"] if device == "cuda" else [])
    assert [check.name for check in faults(unusable)] == (["card"] if device == "cuda" else [])
    assert device_of(dataclasses.replace(there, student=asked.student)) == ("cuda" if device == "cuda" else "auto")


# ------------------------------------------------------------------ memory


def test_a_teacher_too_large_for_the_card_is_told_before_it_is_loaded() -> None:
    asked = of_kaggle()
    assert asked.teacher is not None
    large = dataclasses.replace(asked.teacher, size=ModelSize(7_000_000_000, V, V * 4096))
    [fault] = faults(examine(ON_P100, dataclasses.replace(asked, teacher=large)))
    assert "14 GB of weights" in fault.found
    assert "75% of it" in fault.expected
    assert fault.fix.startswith("--set cache.batch_size=1, which may use all of it, a smaller teacher")
    assert "--set teacher.device=cpu" in fault.fix
    larger = dataclasses.replace(large, size=ModelSize(13_000_000_000, V, V * 4096))
    [beyond] = faults(examine(ON_P100, dataclasses.replace(asked, teacher=larger)))
    assert "cache.batch_size" not in beyond.fix
    sized = asked.cache_settings and asked.cache_settings.model_copy(update={"batch_size": 1})
    assert not faults(examine(ON_P100, dataclasses.replace(asked, teacher=large, cache_settings=sized)))
    assert not faults(examine(machine(A100), dataclasses.replace(asked, teacher=large)))


def test_a_card_held_by_others_is_told() -> None:
    held = machine(dataclasses.replace(P100, free_bytes=33 * GB // 10), built_for=WHEEL_12_6)
    [fault] = faults(examine(held, of_kaggle()))
    assert "nvidia-smi lists what uses the card" in fault.fix


def test_a_student_near_the_guard_is_a_note_and_beyond_the_card_a_fault() -> None:
    asked = of_kaggle()
    assert asked.student is not None
    assert asked.train_settings is not None
    settings, states = asked.train_settings, dict[int, tuple[str, str]]()
    asked = dataclasses.replace(asked, train_settings=settings.model_copy(update={"ema_decay": 0.999}))
    for parameters in (500_000_000, 730_000_000, 900_000_000):  # 5 copies of 4 bytes each: 10, 14.6 and 18 GB
        student = dataclasses.replace(asked.student, size=ModelSize(parameters, V, V * 1024))
        found = checks_of(ON_P100, dataclasses.replace(asked, student=student), "memory")[-1]
        states[parameters] = (found.state, found.fix)
    assert [state for state, _ in states.values()] == ["ok", "note", "fault"]
    assert all("train.ema_device=host" in fix for state, fix in states.values() if state != "ok")
    asked = dataclasses.replace(asked, train_settings=settings, student=student)  # four copies, and no average to spare
    fix = checks_of(ON_P100, asked, "memory")[-1].fix
    assert fix == "a smaller student or a smaller train.chunk_positions"


def test_little_memory_beside_a_card_is_a_note_for_loading() -> None:
    found = machine(P100, built_for=WHEEL_12_6, memory=HostMemory(8 * GB, 3 * GB))
    notes = [check for check in checks_of(found, of_kaggle(), "memory") if check.state == "note"]
    assert any("loaded there before it goes to the card" in note.expected for note in notes)
    assert not faults(examine(found, of_kaggle()))


# ------------------------------------------------------------------ disk


@pytest.mark.parametrize(
    ("room", "state", "fix"),
    [
        (19 * GB, "ok", ""),
        (15 * GB, "note", "--set data.max_tokens="),
        (5 * GB, "note", "cache.roots and train.roots"),
        (2 * GB, "fault", "--run-dir FOLDER"),
    ],
)
def test_the_disk_holds_all_of_it_or_some_or_nothing(room: int, state: str, fix: str) -> None:
    found = machine(P100, built_for=WHEEL_12_6, disk=Disk(Path("artifacts"), room, True))
    check = checks_of(found, of_kaggle(), "disk")[-1]
    assert (check.state, fix in check.fix) == (state, True), check.line
    if "max_tokens" in fix:
        tokens = int(check.fix.partition("=")[2].partition(",")[0])
        assert tokens * 343 + all_checkpoints_bytes(3 * 538_060_032, 538_060_032) < room


def test_what_a_run_has_is_not_counted_again() -> None:
    found = machine(P100, built_for=WHEEL_12_6, disk=Disk(Path("artifacts"), 3 * GB, True))
    done = AskedCache(Found("a plan"), planned=True, complete=True, tokens_left=0, bytes_per_token=308, measured=True)
    check = checks_of(found, of_kaggle(cache=done, teacher=None, trained_bytes=7 * GB), "disk")[-1]
    assert (check.state, "0 bytes of cache (0 tokens, 308 bytes each, as sealed so far)" in check.found) == ("ok", True)


@pytest.mark.parametrize(("room", "state"), [(19 * GB, "note"), (8 * GB, "note"), (GB // 4, "fault")])
def test_a_student_of_unknown_size_is_told_to_be_left_out(room: int, state: str) -> None:
    found = machine(P100, built_for=WHEEL_12_6, disk=Disk(Path("artifacts"), room, True))
    student = AskedModel("student", "auto", "float16", Found("some/student on the hub", "is not here", "hf download"))
    check = checks_of(found, of_kaggle(student=student), "disk")[-1]
    left_out = "the checkpoints and the model of the training, left out here: the student's size is not known"
    assert (check.state, check.expected.endswith(left_out)) == (state, True), check.line
    assert (check.fix == "ask again once the student is here") == (room == 19 * GB)


def test_text_of_unknown_length_is_left_to_the_estimate() -> None:
    unknown = AskedCache(Found("none yet"), bytes_per_token=308.0)
    check = checks_of(ON_P100, of_kaggle(cache=unknown), "disk")[-1]
    assert (check.state, check.fix) == ("note", "sad-pipeline estimate -c CONFIG --gb 50 measures it")


def test_what_is_known_of_a_training_is_held_against_the_disk_all_the_same() -> None:
    unknown = AskedCache(Found("none yet"), bytes_per_token=308.0)
    little = machine(P100, built_for=WHEEL_12_6, disk=Disk(Path("artifacts"), 2 * GB, True))
    check = checks_of(little, of_kaggle(cache=unknown), "disk")[-1]
    assert (check.state, check.expected) == ("fault", "2.69 GB for a checkpoint of the training alone"), check.line
    cramped = machine(P100, built_for=WHEEL_12_6, disk=Disk(Path("artifacts"), GB // 4, True))
    check = checks_of(cramped, of_kaggle(cache=unknown, student=None), "disk")[-1]
    assert (check.state, check.fix) == ("note", "sad-pipeline estimate -c CONFIG --gb 0.25 measures it")


def test_a_disk_that_does_not_say_what_is_free_is_no_fault() -> None:
    silent = machine(P100, built_for=WHEEL_12_6, disk=Disk(Path("artifacts"), None, True))
    checks = checks_of(silent, of_kaggle(), "disk")
    assert [check.state for check in checks] == ["ok", "note"]
    assert all("the system does not say" in check.found for check in checks)


# ------------------------------------------------------------------ what belongs together


@pytest.mark.parametrize(("rows", "fits"), [(V, True), (int(0.95 * V), True), (V // 2, False)])
def test_a_student_with_fewer_ids_than_its_teacher_is_told(rows: int, fits: bool) -> None:
    """Before the capture: after it the tokenizers are compared. A matrix may have rows that only pad it."""
    size = size_of_block(SMOLLM2_135M, rows)
    asked = of_kaggle(student=AskedModel("student", "auto", "float16", Found("a folder"), size=size))
    assert [check.state for check in checks_of(ON_P100, asked, "vocabulary")] == ([] if fits else ["fault"])
    planned = dataclasses.replace(asked.cache, planned=True, vocab_size=V)  # type: ignore[type-var]
    of_a_plan = checks_of(ON_P100, dataclasses.replace(asked, cache=planned), "vocabulary")
    assert len(of_a_plan) == (rows < V)


# ------------------------------------------------------------------ what is not there


def test_what_a_config_names_and_is_not_there_is_a_fault() -> None:
    asked = of_kaggle(
        text=Found("", "data.path texts: no such file or folder"),
        student=AskedModel("student", "auto", "auto", Found("folder gone", "gone: no such folder", "name another")),
        cache=AskedCache(Found("", "two different caches were named"), planned=True),
    )
    found = {check.name: check for check in faults(examine(ON_P100, asked))}
    assert set(found) == {"text", "student", "cache"}
    assert found["student"].line.endswith("folder gone: gone: no such folder -> name another")
