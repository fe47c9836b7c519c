"""What is said once when figures of a training look wrong, and what is not."""

from __future__ import annotations

import pytest

from pipeline import console
from pipeline.distill.guards.alarms import Alarms
from pipeline.distill.step_result import StepResult, Trouble
from pipeline.distill.weighting.loss_weights import StepWeights


def result(ce: float = 3.0, kd: float = 1.0, norm: float = 1.0, trouble: Trouble | None = None) -> StepResult:
    figures = {"loss": ce + kd, "ce": 7 * ce, "kd": 7 * kd, "gradient_norm": norm}
    return StepResult.of(figures, 1.0, StepWeights(0.1, 0.9, 0.0, None), 1e-3, 1.0, 7, trouble)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    console._said.clear()
    return capsys


def heard(said: pytest.CaptureFixture[str], steps: list[tuple[int, StepResult]], warmup_steps: int = 100) -> list[str]:
    alarms = Alarms(warmup_steps)
    for step, found in steps:
        alarms.hear(step, found)
    return [line.removeprefix("note: ") for line in said.readouterr().err.splitlines()]


def test_high_losses_after_warm_up_once_a_part(said: pytest.CaptureFixture[str]) -> None:
    lines = heard(said, [(100, result(12, 11)), (101, result(10, 10)), (102, result(12)), (103, result(13, 11))])
    assert len(lines) == 2
    assert lines[0].startswith("step 102: the ce part of the loss is 12.0 nats a position, above 10 after warm-up")
    assert lines[1].startswith("step 103: the kd part of the loss is 11.0 nats a position, above 10 after warm-up")


def test_very_high_losses_after_a_thousand_steps(said: pytest.CaptureFixture[str]) -> None:
    lines = heard(said, [(1000, result(25)), (1001, result(20)), (1002, result(21)), (1003, result(30))])
    assert [line.split(":")[0] for line in lines] == ["step 1,000", "step 1,002"]
    assert "above 20 after step 1,000" in lines[1]


def test_a_warm_up_of_more_than_a_thousand_steps_hides_no_divergence(said: pytest.CaptureFixture[str]) -> None:
    lines = heard(said, [(1000, result(25)), (1001, result(25)), (1002, result(4, 21)), (1003, result(15))], 5000)
    assert [line.partition(" is ")[0] for line in lines] == [
        "step 1,001: the ce part of the loss",
        "step 1,002: the kd part of the loss",
    ]
    assert all("above 20 after step 1,000" in line for line in lines)


def test_low_losses_are_never_reported(said: pytest.CaptureFixture[str]) -> None:
    assert heard(said, [(step, result(1e-9, -1e-9, 1e-12)) for step in (1, 500, 5000)]) == []


def test_gradient_norms_and_skipped_steps(said: pytest.CaptureFixture[str]) -> None:
    bad = result(float("nan"), 50, float("inf"), Trouble(("ce",), ()))
    steps = [(4, result(norm=10)), (5, result(norm=50)), (6, result(norm=60))]
    lines = heard(said, [*steps, (200, bad), (201, result(norm=10.5)), (202, result(norm=99))])
    assert len(lines) == 2, "once in warm-up, where it may mean nothing, and once after it"
    assert lines[0].startswith("step 5: the gradient's norm is 50.0 before clipping, above 10 in warm-up")
    assert lines[1].startswith("step 201: the gradient's norm is 10.5 before clipping, above 10 after warm-up")


def test_a_card_that_is_nearly_full(said: pytest.CaptureFixture[str]) -> None:
    alarms = Alarms(0)
    for share in (None, 0.5, 0.9, 0.93, 0.99):
        alarms.hear_memory(share)
    lines = said.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("note: 93% of the card's memory is in use, above 90%")
