"""The teacher at hand in eval: of the plan's precision, on whatever machine, and refused in eval's own words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.cache import Plan
from pipeline.errors import MachineError
from pipeline.evaluation import references
from pipeline.evaluation.references import teacher_at_hand
from pipeline.models import CausalModel
from pipeline.models.fingerprint import fingerprint
from pipeline.models.settings import TeacherSettings
from tests import tiny
from tests.evaluation.caches import make_cache


@pytest.fixture
def plan(llama_folder: Path, tmp_path: Path) -> Plan:
    """Of a cache in bfloat16 that a card made, of this teacher."""
    made = make_cache(tmp_path, CausalModel(tiny.make_model(), tiny.VOCAB_SIZE)).plan
    capture = made.capture | {"dtype": "bfloat16", "device_class": "cuda sm_80"}
    return replace(made, identity={"teacher": fingerprint(str(llama_folder), None)}, capture=capture)


def test_on_another_device_it_is_the_teacher_and_nothing_is_said_of_shards(
    plan: Plan, llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = teacher_at_hand(plan, TeacherSettings(model=str(llama_folder), device="cpu"))
    assert (teacher.dtype, teacher.num_effective) == (torch.bfloat16, plan.vocab_size)
    assert "note:" not in capsys.readouterr().err


def test_a_card_without_its_precision_is_refused_with_what_eval_can_do(
    plan: Plan, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some Card")
    told = r"^eval\.teacher: .* in bfloat16, .* Some Card, .* Set teacher\.device to cpu, or leave eval\.teacher out\.$"
    with pytest.raises(MachineError, match=told):
        teacher_at_hand(plan, TeacherSettings(model=str(llama_folder)))
