"""The commit of a hub student is that of its training's newest checkpoint, found without reading any weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline import console, files
from pipeline.cache import Plan
from pipeline.distill.keeping import begun_student as module
from pipeline.distill.keeping.begun_student import begun_student
from pipeline.distill.keeping.checkpoint import save_checkpoint
from pipeline.distill.keeping.identity import schedule_identity
from pipeline.distill.settings import TrainSettings
from pipeline.models import CausalModel
from pipeline.models.settings import StudentSettings
from tests import tiny
from tests.evaluation.caches import make_cache

STUDENT, TRAIN = StudentSettings(model="someone/student"), TrainSettings(steps=10)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "cache").mkdir()
    return make_cache(tmp_path / "cache", CausalModel(tiny.make_model(), tiny.VOCAB_SIZE)).plan


def save(folder: Path, step: int, plan: Plan, revision: str) -> Path:
    hub = {"model": STUDENT.model, "revision": revision}
    state = {"training": schedule_identity(plan, TRAIN), "student_hub": hub}
    return save_checkpoint(folder, "step", step, {"weights": {"w": torch.zeros(64)}}, state).folder


def test_no_weights_are_read_and_what_is_damaged_says_nothing(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console._said.clear()
    folder, read, real = tmp_path / "checkpoints", list[str](), files.digest_file
    for step, revision in ((4, "a" * 40), (6, "b" * 40), (8, "c" * 40)):
        save(folder, step, plan, revision)

    def counted(path: Path) -> files.FileDigest:
        read.append(path.name)
        return real(path)

    def began() -> str | None:
        return begun_student(STUDENT, plan, TRAIN, [folder]).revision

    monkeypatch.setattr(files, "digest_file", counted)
    monkeypatch.setattr(module, "hub_commit", lambda *_: "d" * 40)
    assert (began(), set(read)) == ("c" * 40, {"state.json"})
    state = folder / "step-00000008" / "state.json"
    state.write_text(state.read_text(encoding="utf-8").replace("c" * 40, "e" * 40), encoding="utf-8")
    weights = folder / "step-00000006" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert (began(), set(read)) == ("a" * 40, {"state.json"})
    told = capsys.readouterr().err
    assert f"checkpoint passed over: {state}: size or xxh3-128" in told
    assert f"checkpoint passed over: {weights}: size or xxh3-128" in told
    assert begun_student(STUDENT, plan, TRAIN, []).revision == "d" * 40, "there is none yet"
