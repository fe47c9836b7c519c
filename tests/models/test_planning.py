"""Planning: what is refused before the weights are loaded, what a plan holds to later, and what it says of itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import console
from pipeline.cache.plan import SEQUENCES_NAME, Plan, in_turn
from pipeline.cache.roots import SealedShard
from pipeline.cache.seal import Seal
from pipeline.cache.settings import CacheSettings
from pipeline.data.sequences import TRAIN, VALIDATION
from pipeline.data.settings import DataSettings
from pipeline.errors import ConfigError, IdentityError, MachineError
from pipeline.models import planning
from pipeline.models.device import environment
from pipeline.models.planning import load_teacher, note_other_machine, plan_capture, planned_sequences
from pipeline.models.settings import TeacherSettings
from pipeline.pause import PauseRequest
from tests import tiny


def _plan(
    folder: Path, model: Path, texts: Path, cache: dict[str, Any] | None = None, **data: Any
) -> tuple[Plan, TeacherSettings]:
    settings = TeacherSettings(model=str(model))
    values = {"source": "text", "path": str(texts), "sequence_length": 32, "validation_fraction": 0.2} | data
    options = CacheSettings(**({"head_size": 16, "batch_size": 8} | (cache or {})))
    folder.mkdir(exist_ok=True)
    return plan_capture(folder, DataSettings(**values), settings, options, PauseRequest())[0], settings


def test_the_seed_of_the_draws_is_the_configs(llama_folder: Path, texts_folder: Path, tmp_path: Path) -> None:
    settings = TeacherSettings(model=str(llama_folder))
    data = DataSettings(source="text", path=str(texts_folder), sequence_length=32, validation_fraction=0.2)
    options = CacheSettings(head_size=16, batch_size=8, seed=5)
    plan, _, teacher = plan_capture(tmp_path, data, settings, options, PauseRequest())
    assert (teacher.seed, load_teacher(plan, settings).seed) == (5, 5)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """The notes since it was last asked."""
    console._said.clear()
    return lambda: [line.removeprefix("note: ") for line in capsys.readouterr().err.splitlines() if "note: " in line]


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that must not be asked for."""

    def load(*arguments: Any) -> None:
        raise AssertionError("the weights are loaded")

    monkeypatch.setattr(planning, "load_model", load)


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize(
    ("data", "cache", "message"),
    [
        ({"sequence_length": 200}, {}, r"data\.sequence_length: 200 positions, and this llama model .* at most 128"),
        ({"path": "/nowhere/at/all"}, {}, r"data\.path /nowhere/at/all: no such file or folder"),
        ({"min_characters": 10**6}, {}, r"of 24 read none is usable"),
        ({"source": "jsonl"}, {}, r"expected \.jsonl"),
    ],
)
def test_what_needs_no_weights_is_refused_before_they_are_loaded(
    data, cache, message, llama_folder, texts_folder, tmp_path
):
    with pytest.raises(ConfigError, match=message):
        _plan(tmp_path / "cache", llama_folder, texts_folder, cache, **data)
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.usefixtures("unloaded")
def test_a_folder_without_safetensors_is_refused_before_the_text_is_read(llama_folder, tmp_path):
    folder = Path(shutil.copytree(llama_folder, tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"expected model\.safetensors"):
        _plan(tmp_path / "cache", folder, tmp_path / "nowhere")


def test_only_the_first_usable_document_is_read_before_the_weights(llama_folder, texts_folder, tmp_path, monkeypatch):
    read, real = [], planning.read_documents

    def counted(settings):
        for document in real(settings):
            read.append(document.key)
            yield document

    monkeypatch.setattr(planning, "read_documents", counted)
    _plan(tmp_path / "cache", llama_folder, texts_folder)
    assert len(read) == 1


def test_lost_sequences_of_the_version_before_are_packed_again_where_they_come_out_the_same(
    llama_folder, texts_folder, tmp_path
):
    """Version 2 kept the text whole at which data.max_tokens falls; nothing else differs for small texts."""
    plan, settings = _plan(tmp_path / "cache", llama_folder, texts_folder)
    values = {"source": "text", "path": str(texts_folder), "sequence_length": 32, "validation_fraction": 0.2}
    older = replace(plan, identity=plan.identity | {"packing_version": 2})
    again = planned_sequences(older, [tmp_path], tmp_path, DataSettings(**values), settings, PauseRequest())
    assert again.num_sequences == plan.num_sequences
    (tmp_path / SEQUENCES_NAME).unlink()
    cut = DataSettings(**values, max_tokens=1000)
    with pytest.raises(IdentityError, match=r"gives other sequences .* packed as of version 2, and .* of version 6\."):
        planned_sequences(older, [tmp_path], tmp_path, cut, settings, PauseRequest())
    with pytest.raises(IdentityError, match=r"gives other sequences .*; the text has changed\."):
        planned_sequences(plan, [tmp_path], tmp_path, cut, settings, PauseRequest())
    assert not (tmp_path / SEQUENCES_NAME).exists()


@pytest.mark.parametrize("capability", [(6, 0), (7, 5)])
def test_a_plan_in_bfloat16_does_not_go_on_where_there_is_none(
    capability, llama_folder, texts_folder, tmp_path, monkeypatch
):
    plan, settings = _plan(tmp_path / "cache", llama_folder, texts_folder)
    plan.capture["dtype"] = "bfloat16"
    assert load_teacher(plan, settings).model.dtype == torch.bfloat16  # a CPU has it
    monkeypatch.setattr(planning, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some Card")
    with pytest.raises(MachineError, match=r"plan of this cache is in bfloat16.*Some Card.*8\.0.*--run-dir"):
        load_teacher(plan, settings)


def test_a_machine_that_is_another_is_noted_once_and_what_differs(llama_folder, texts_folder, tmp_path, said):
    plan, _ = _plan(tmp_path / "cache", llama_folder, texts_folder, {"shard_positions": 64})
    here = environment(torch.device("cpu"))
    train, *_, validation = in_turn(plan.shards)[::-1]
    assert (train.split, validation.split) == (TRAIN, VALIDATION)
    agree = ": shards made here agree with the others within rounding, not bit for bit; their seals name the machine"

    def shard(span, **other):
        seal = Seal(span.shard_name, 1, "", span.first, span.count, 1, 1, {}, plan.hash, here | other)
        return SealedShard(span, seal, tmp_path / span.shard_name)

    def noted(*shards, at=here):
        for _ in range(2):
            note_other_machine(plan, {shard.span.index: shard for shard in shards}, at)
        return said()

    assert noted() == []
    elsewhere = here | {"device_class": "cuda sm_75"}
    assert noted(at=elsewhere) == [
        f"the plan was made with device class cpu, this machine has device class cuda sm_75{agree}"
    ]
    assert noted(shard(validation), shard(train, python="3.0.0")) == [], "which is no matter of bytes"
    assert noted(shard(validation, torch="1.0"), shard(train)) == [], "the newest is a training shard"
    now = f"device name {here['device_name']}, torch {here['torch']}"
    assert noted(shard(validation), shard(train, torch="1.0", device_name="Card")) == [
        f"shard {train.index + 1} was made with device name Card, torch 1.0, this machine has {now}{agree}"
    ]


def test_machine_precision_and_sizes_are_said_for_a_new_plan_and_an_old_one(
    llama_folder, texts_folder, tmp_path, capsys
):
    weights = sum(int(np.prod(parameter.shape)) for parameter in tiny.make_model().parameters())
    line = (
        f"teacher: llama, {weights:,} parameters, on cpu in float32; the plan: 1 sequence a pass, 64 positions at once"
    )
    plan, settings = _plan(tmp_path / "cache", llama_folder, texts_folder, {"batch_size": 1, "chunk_positions": 64})
    assert line in capsys.readouterr().err.splitlines()
    load_teacher(plan, settings)
    assert capsys.readouterr().err.splitlines() == [line]


@pytest.mark.parametrize(
    ("count", "words"),
    [(41_000, "41,000"), (999_600, "1 million"), (134_515_008, "135 million"), (1.236e9, "1.24 billion")],
)
def test_parameters_are_counted_in_words(count, words):
    parameter = type("Parameter", (), {"numel": lambda self: int(count)})()
    model = type("Model", (), {"parameters": lambda self: [parameter]})()
    assert planning._count(type("Causal", (), {"model": model})()) == words
