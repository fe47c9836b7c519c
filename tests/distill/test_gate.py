"""The learned router: its gradient by hand, what it learns, and that it does not collapse."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pipeline.distill.loss.routing import PARTS, Signal
from pipeline.distill.settings import Part
from pipeline.distill.weighting.gate import LEARNING_RATE, MOST, PULL, Gate

ALL: tuple[Part, ...] = ("ce", "kd", "rank")


def random_signals(count: int, seed: int = 0) -> Tensor:
    signals_n6 = torch.randn(count, len(Signal), generator=torch.Generator().manual_seed(seed))
    signals_n6[:, [Signal.TEACHER_ENTROPY, Signal.STUDENT_ENTROPY]] = signals_n6[:, [0, 3]].abs()
    signals_n6[:, Signal.TEACHER_LABEL] = -signals_n6[:, Signal.TEACHER_LABEL].abs()
    signals_n6[:, Signal.HEAD_MASS] = signals_n6[:, Signal.HEAD_MASS].sigmoid()
    signals_n6[:, Signal.AGREES] = (signals_n6[:, Signal.AGREES] > 0).float()
    return signals_n6


def random_losses(count: int, scales: dict[Part, float], seed: int = 1) -> dict[Part, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {part: scale * torch.rand(count, generator=generator) * 2 for part, scale in scales.items()}


def trained(scales: dict[Part, float], steps: int = 400, count: int = 256) -> Gate:
    gate = Gate(tuple(scales))
    for step in range(steps):
        losses_n = random_losses(count, scales, seed=step)
        gate.study(random_signals(count, 10_000 + step), losses_n, scales)
        gate.learn(count)
    return gate


def test_begins_as_uniform() -> None:
    signals_n6 = random_signals(9)
    torch.testing.assert_close(Gate(ALL).route(signals_n6), torch.ones(9, 3))
    torch.testing.assert_close(Gate(("ce", "kd")).route(signals_n6), torch.ones(9, 3))


def test_routes_are_shares_of_its_parts() -> None:
    gate, signals_n6 = Gate(("kd", "rank")), random_signals(9)
    with torch.no_grad():
        gate.weight_PF.normal_(generator=torch.Generator().manual_seed(2))
    routes_n3 = gate.route(signals_n6)
    assert (routes_n3[:, PARTS.index("ce")] == 1).all()
    torch.testing.assert_close(routes_n3[:, 1:].sum(1), torch.full((9,), 2.0))
    assert routes_n3[:, 1].std() > 0.1
    assert not routes_n3.requires_grad


def test_first_step_is_adam_on_the_written_objective() -> None:
    """The objective again in float64 from its formula; Adam's first step is the gradient's sign, times the rate."""
    gate, signals_n6 = Gate(ALL), random_signals(50)
    with torch.no_grad():
        gate.weight_PF.normal_(std=0.5, generator=torch.Generator().manual_seed(3))
    before_PF = gate.weight_PF.detach().clone()
    sizes: dict[Part, float] = {"ce": 3.0, "kd": 0.2, "rank": 1.5}
    losses_n = random_losses(50, sizes)
    losses_n["ce"][0] = 1e4  # counts for MOST average ones
    losses_n["kd"][1] = -1e4  # as an estimate from draws may be
    for rows in (slice(0, 20), slice(20, 50)):  # two micro-batches
        gate.study(signals_n6[rows], {part: loss_n[rows] for part, loss_n in losses_n.items()}, sizes)
    gradient_PF = gate.weight_PF.grad / 50
    gate.learn(50)

    weight_PF = before_PF.double().requires_grad_()
    entropy_t, label, mass, entropy_s, gap, agrees = signals_n6.double().unbind(1)
    features = [
        entropy_t / (1 + entropy_t),
        label.exp(),
        mass,
        entropy_s / (1 + entropy_s),
        gap / (1 + gap.abs()),
        agrees,
    ]
    g_nP = (torch.stack(features, 1) @ weight_PF.T).softmax(1)
    relative_nP = torch.stack([(losses_n[part].double() / sizes[part]).clamp(-MOST, MOST) for part in ALL], 1)
    objective = (g_nP * relative_nP).sum(1) + PULL * (g_nP * (3 * g_nP).log()).sum(1)
    objective.mean().backward()
    torch.testing.assert_close(gradient_PF.double(), weight_PF.grad, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(gate.weight_PF, before_PF - LEARNING_RATE * gradient_PF.sign(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("easiest", ALL)
def test_does_not_collapse_onto_the_part_that_is_always_smallest(easiest: Part) -> None:
    """A thousandth of the others in nats: normalised, it is as hard as any, and the gate stays near uniform."""
    scales = {part: 0.004 if part == easiest else 4.0 for part in ALL}
    routes_n3 = trained(scales).route(random_signals(2_000, 77))
    torch.testing.assert_close(routes_n3.mean(0), torch.ones(3), rtol=0, atol=0.1)
    assert routes_n3.min() > 0.7


def test_without_magnitudes_it_would() -> None:
    """The same training with losses in nats as they are: what the test above guards against does happen."""
    gate = Gate(ALL)
    scales: dict[Part, float] = {"ce": 3.0, "kd": 0.003, "rank": 3.0}
    for step in range(400):
        gate.study(random_signals(256, 10_000 + step), random_losses(256, scales, seed=step), dict.fromkeys(ALL, 1.0))
        gate.learn(256)
    assert gate.route(random_signals(2_000, 77))[:, 1].mean() > 2.0


def test_learns_what_its_signals_tell_and_no_more_than_the_pull_allows() -> None:
    """Labels are three times as costly as usual where the student's first choice is not the teacher's: there the gate
    nears softmax(−E[ℓ/m]/λ), and no share is below 1/(1 + (P − 1)·e^(C/λ))."""
    gate = Gate(("ce", "kd"))
    for step in range(1_500):
        signals_n6 = random_signals(256, step)
        agrees_n = signals_n6[:, Signal.AGREES]
        losses_n: dict[Part, Tensor] = {"ce": 3.0 - 2.5 * agrees_n, "kd": torch.ones(256)}
        gate.study(signals_n6, losses_n, {"ce": 1.0, "kd": 1.0})
        gate.learn(256)
    signals_n6 = random_signals(2_000, 99)
    routes_n3, agrees_n = gate.route(signals_n6), signals_n6[:, Signal.AGREES] > 0
    for rows, cost in ((agrees_n, 0.5), (~agrees_n, 3.0)):
        share = math.exp(-cost / PULL) / (math.exp(-cost / PULL) + math.exp(-1.0 / PULL))
        assert routes_n3[rows, 0].mean() / 2 == pytest.approx(share, abs=0.03)
    assert routes_n3.min() / 2 > 1 / (1 + math.exp(MOST / PULL))


def test_forgetting_leaves_no_trace() -> None:
    """A step that was skipped: what was studied for it does not count."""
    first, second = Gate(ALL), Gate(ALL)
    sizes: dict[Part, float] = dict.fromkeys(ALL, 1.0)
    first.study(random_signals(8, 3), random_losses(8, sizes, 4), sizes)
    first.forget()
    first.learn(8)
    for gate in (first, second):
        gate.study(random_signals(8), random_losses(8, sizes), sizes)
        gate.learn(8)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_step_counts_for_its_mean_however_many_positions_it_has() -> None:
    first, second = Gate(ALL), Gate(ALL)
    sizes: dict[Part, float] = dict.fromkeys(ALL, 1.0)
    for gate, times in ((first, 1), (second, 5)):
        for step, repeats in enumerate((1, times)):
            for _ in range(repeats):
                gate.study(random_signals(8, step), random_losses(8, sizes, step), sizes)
            gate.learn(8 * repeats)
    torch.testing.assert_close(second.weight_PF, first.weight_PF, rtol=1e-4, atol=1e-7)


def test_goes_on_from_its_tensors() -> None:
    sizes: dict[Part, float] = dict.fromkeys(ALL, 1.0)
    straight, resumed = trained(sizes, steps=5), Gate(ALL)
    resumed.load_tensors({name: tensor.clone() for name, tensor in straight.tensors().items()})
    for gate in (straight, resumed):
        gate.study(random_signals(8), random_losses(8, sizes), sizes)
        gate.learn(8)
    assert straight.tensors().keys() == resumed.tensors().keys()
    assert len(straight.tensors()) == 8
    assert all(torch.equal(a, b) for a, b in zip(straight.tensors().values(), resumed.tensors().values(), strict=True))
