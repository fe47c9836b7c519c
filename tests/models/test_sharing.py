"""Processes with a card each: one that a process cannot begin on is told like any failure of its work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from pipeline.cache.plan import ShardSpan
from pipeline.data.settings import DataSettings
from pipeline.distill import training_workers
from pipeline.errors import MachineError
from pipeline.models import capture_workers
from pipeline.models.settings import TeacherSettings
from pipeline.models.sharing import num_threads, use_card
from pipeline.pause import PauseRequest

FULL = (torch.OutOfMemoryError("CUDA error: out of memory"), r"memory of card 1 is full .* nvidia-smi lists")
BUSY = (
    RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
    r"card 1 is busy or unavailable: another process .* nvidia-smi lists",
)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Lets a machine have two cards that cannot be begun on."""

    def take(error: Exception) -> None:
        def refuse(number: int) -> None:
            raise error

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "set_device", refuse)

    return take


@pytest.mark.parametrize(("error", "told"), [FULL, BUSY])
def test_a_card_that_cannot_be_begun_on(error: Exception, told: str, taken: Callable[[Exception], None]) -> None:
    taken(error)
    with pytest.raises(MachineError, match=told):
        use_card(1, "auto")
    use_card(1, "cpu")
    taken(RuntimeError("CUDA error: invalid device ordinal"))
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        use_card(1, "cuda")


def test_a_teacher_takes_its_card_with_its_first_shard(
    taken: Callable[[Exception], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where its process begins: what fails there ends all of them without a reason."""
    taken(FULL[0])
    monkeypatch.setattr(capture_workers, "_worker", None, raising=False)
    job = capture_workers.Job(Path(), [], DataSettings(source="stdlib"), TeacherSettings(model="x"))
    capture_workers._begin(PauseRequest(), 1, [0, 0], num_threads(), job)
    with pytest.raises(MachineError, match=FULL[1]):
        capture_workers._seal(cast(ShardSpan, None))


def test_a_student_takes_its_card_with_its_work(
    taken: Callable[[Exception], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken(FULL[0])
    for name in ("_pause", "_number"):
        monkeypatch.setattr(training_workers, name, None, raising=False)
    given: list[Any] = [PauseRequest(), 0, num_threads()]
    training_workers._begin(*given)
    job = SimpleNamespace(student=SimpleNamespace(device="auto"))
    with pytest.raises(MachineError, match=FULL[1]):
        training_workers._take_part("", 2, cast(training_workers.Job, job))
