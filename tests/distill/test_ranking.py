"""`ranked`: the likelihood of the teacher's order, against choosing one id after another by hand."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.distill import dense
from tests.distill.cases import logits, on_logits, replace_records

TEMPERATURES = (1.0, 1.7, 4.0)


def teacher_of(levels: list[float], head_size: int, vocab_size: int = 9) -> dense.Teacher:
    """One position whose likeliest ids, from id 0 on, have these logits; the others are far below."""
    row_V = torch.full((vocab_size,), -20.0, dtype=torch.float64)
    row_V[: len(levels)] = torch.tensor(levels, dtype=torch.float64)
    return dense.make_teacher(row_V[None], head_size, num_draws=1)


def chosen_one_by_one(scores_K: Tensor, order: list[int]) -> float:
    """log P of an order: the first is chosen among all, the next among those that are left, and so on."""
    left, total = list(range(len(scores_K))), 0.0
    for chosen in order:
        total += float((scores_K[chosen] - scores_K[left].logsumexp(0)).item())
        left.remove(chosen)
    return total


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("size", [2, 3, 4])
def test_is_the_chance_of_choosing_in_the_teachers_order(size: int, temperature: float) -> None:
    """By hand for every order; and the chances of all orders sum to 1."""
    student_NV, chances = logits(1, 9, 3, scale=1.0), []
    for order in itertools.permutations(range(size)):
        levels = [0.0] * size
        for place, id_ in enumerate(order):
            levels[id_] = 5.0 - place
        parts = on_logits(student_NV, teacher_of(levels, size), "ranked", temperature)
        expected = chosen_one_by_one(student_NV[0, :size].double() / temperature, list(order))
        assert float(parts.kd_N) == pytest.approx(-expected / (size - 1), rel=1e-5)
        chances.append(math.exp(-float(parts.kd_N) * (size - 1)))
    assert sum(chances) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_equals_mean_any_order(temperature: float) -> None:
    """Equal ids each compete with their group and all below: what the order inside the group is does not matter."""
    levels, student_NV = [5.0, 3.0, 3.0, 3.0, 1.0, 1.0], logits(1, 9, 4, scale=1.0)
    scores_K = student_NV[0, :6].double() / temperature
    groups = [[0], [1, 2, 3], [4, 5]]
    by_hand = 0.0
    for place, group in enumerate(groups):
        rivals = [id_ for below in groups[place:] for id_ in below]
        by_hand += sum(float(scores_K[rivals].logsumexp(0) - scores_K[id_]) for id_ in group)
    found = on_logits(student_NV, teacher_of(levels, 6), "ranked", temperature)
    assert float(found.kd_N) == pytest.approx(by_hand / 6, rel=1e-5)  # the last two have each other to choose from

    shuffled_NV = student_NV.clone()
    shuffled_NV[0, [1, 2, 3]] = student_NV[0, [3, 1, 2]]
    shuffled_NV[0, [4, 5]] = student_NV[0, [5, 4]]
    again = on_logits(shuffled_NV, teacher_of(levels, 6), "ranked", temperature)
    torch.testing.assert_close(found.kd_N, again.kd_N, rtol=1e-6, atol=0)


def test_ties_are_the_same_at_every_temperature() -> None:
    """Log-probabilities a rounding apart are an order, and stay one where softening them would make them equal."""
    teacher = teacher_of([5.0, 4.0, 3.0], 3)
    teacher.records.logprobs_TK[0, 2] = np.nextafter(teacher.records.logprobs_TK[0, 1], np.float32(-np.inf))
    student_NV = logits(1, 9, 5, scale=1.0)
    for temperature in np.linspace(1.0, 4.0, 31):
        expected = chosen_one_by_one(student_NV[0, :3].double() / temperature, [0, 1, 2])
        assert float(on_logits(student_NV, teacher, "ranked", temperature).kd_N) == pytest.approx(-expected / 2)


def test_a_constant_on_all_logits_changes_nothing() -> None:
    teacher, student_NV = dense.make_teacher(logits(5, 30, 6), 8, 2), logits(5, 30, 7)
    first_NV, second_NV = student_NV.clone().requires_grad_(), (student_NV + 16.0).requires_grad_()
    first, second = (on_logits(given_NV, teacher, "ranked", 2.0) for given_NV in (first_NV, second_NV))
    torch.testing.assert_close(first.kd_N, second.kd_N, rtol=1e-5, atol=1e-6)
    for given_NV, parts in ((first_NV, first), (second_NV, second)):
        parts.loss.backward()
        assert (given_NV.grad[teacher.tail_NV] == 0).all()
        assert given_NV.grad.sum(1).abs().max() < 1e-5
    torch.testing.assert_close(first_NV.grad, second_NV.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head_size", [2, 16, 256])
def test_its_unit_does_not_grow_with_the_head(head_size: int) -> None:
    """A student that knows nothing: between log 2 and log K nats a choice."""
    teacher = dense.make_teacher(logits(3, 300, 8), head_size, 2)
    parts = on_logits(torch.zeros(3, 300), teacher, "ranked")
    expected = sum(math.log(left) for left in range(2, head_size + 1)) / (head_size - 1)
    torch.testing.assert_close(parts.kd_N, torch.full((3,), expected), rtol=1e-5, atol=0)


def test_where_student_and_teacher_agree_it_pushes_on() -> None:
    """Neither zero nor at rest: the likeliest id is pushed up by 1 − q(i | head), over the number of choices."""
    same_NV = logits(6, 30, 9).requires_grad_()
    teacher = dense.make_teacher(same_NV.detach(), 8, 2)
    parts = on_logits(same_NV, teacher, "ranked")
    parts.loss.backward()
    best_N1 = teacher.logp_NV.argmax(1, keepdim=True)
    in_head_N1 = (same_NV.detach().double().masked_fill(teacher.tail_NV, -torch.inf)).softmax(1).gather(1, best_N1)
    torch.testing.assert_close(same_NV.grad.gather(1, best_N1).double(), (in_head_N1 - 1) / 7, rtol=1e-4, atol=1e-6)
    sharper = on_logits(8 * same_NV.detach(), teacher, "ranked")
    assert (sharper.kd_N > 0).all()
    assert (sharper.kd_N < parts.kd_N).all()


def test_a_head_of_equals_rests_where_the_student_sees_equals() -> None:
    """Then the value is log K, and there is no gradient."""
    student_NV = torch.cat([torch.full((1, 6), 2.0), logits(1, 3, 10)], dim=1).requires_grad_()
    parts = on_logits(student_NV, teacher_of([1.0] * 6, 6), "ranked", 2.0)
    parts.loss.backward()
    assert float(parts.kd_N) == pytest.approx(math.log(6), rel=1e-6)
    assert student_NV.grad.abs().max() < 1e-6


@pytest.mark.parametrize("kept", [1, 2])
def test_padding_is_below_nothing(kept: int) -> None:
    """A head of `kept` ids and padding: one id is no choice, two are one."""
    teacher, student_NV = teacher_of([5.0, 4.0, 3.0], 3), logits(1, 9, 11).requires_grad_()
    records = replace(teacher.records, logprobs_TK=teacher.records.logprobs_TK.copy())
    records.logprobs_TK[:, kept:] = -np.inf
    parts = on_logits(student_NV, replace_records(teacher, records), "ranked")
    parts.loss.backward()
    expected = 0.0 if kept == 1 else -chosen_one_by_one(student_NV.detach()[0, :2].double(), [0, 1])
    assert float(parts.kd_N) == pytest.approx(expected, rel=1e-5)
    assert (student_NV.grad[0, kept:] == 0).all()
    assert student_NV.grad.isfinite().all()
