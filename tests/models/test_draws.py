"""Draws: their distribution, what can never be drawn, and random numbers that depend on place alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.models.draws import draw_ids, running_sums, uniforms


def _plain_inverse_cdf(weights: np.ndarray, uniform: float) -> int:
    cumulative = np.cumsum(weights.astype(np.float64))
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))


@pytest.mark.parametrize("vocab_size", [1, 2, 3, 10, 97, 1000])
def test_frequencies_follow_the_weights(vocab_size):
    """Pearson's χ² over many draws stays within five standard deviations of its mean (its degrees of freedom)."""
    generator = torch.Generator().manual_seed(vocab_size)
    weights = torch.rand(1, vocab_size, generator=generator) ** 3 + 1e-3
    uniform = torch.from_numpy(uniforms(0, 7, 1, 200_000))
    counts = torch.bincount(draw_ids(weights, uniform)[0], minlength=vocab_size).double()
    expected = weights[0].double() / weights.double().sum() * uniform.shape[1]
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    freedom = vocab_size - 1
    assert chi_squared <= freedom + 5 * (2 * freedom) ** 0.5 + 1e-9


def test_weight_zero_is_never_drawn_and_every_extreme_lands():
    weights = torch.zeros(4, 211)
    weights[0, 5] = 1.0
    weights[1, [0, 210]] = torch.tensor([1e-30, 1.0])
    weights[2, 100:110] = 1e-38
    weights[3, ::2] = torch.rand(106) + 0.1
    extremes = torch.tensor([0.0, 2.0**-53, 0.25, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    ids = draw_ids(weights, extremes.repeat(4, 1))
    assert bool((weights.gather(1, ids) > 0).all())
    assert ids[0].tolist() == [5] * 5
    assert ids[1, 0] == 0
    assert ids[1, -1] == 210


def test_one_position_or_many_give_the_same_draws():
    weights = torch.rand(6, 500)
    uniform = torch.from_numpy(uniforms(1, 2, 6, 16))
    together = draw_ids(weights, uniform)
    apart = torch.cat([draw_ids(weights[i : i + 1], uniform[i : i + 1]) for i in range(6)])
    assert torch.equal(together, apart)
    assert torch.equal(together, together.sort(dim=1).values)


def test_within_one_column_it_is_the_plain_inverse_cdf():
    """With as many draws as ids there is one row, so columns are ids in order and the two levels become one."""
    weights = torch.rand(1, 64)
    uniform = torch.from_numpy(uniforms(3, 0, 1, 64))
    expected = sorted(_plain_inverse_cdf(weights[0].numpy(), float(u)) for u in uniform[0])
    assert draw_ids(weights, uniform)[0].tolist() == expected


def test_uniforms_depend_on_seed_sequence_and_place_alone():
    short, long = uniforms(9, 4, 3, 5), uniforms(9, 4, 10, 5)
    assert np.array_equal(short, long[:3])
    assert not np.array_equal(short, uniforms(9, 5, 3, 5))
    assert not np.array_equal(short, uniforms(8, 4, 3, 5))
    assert ((long >= 0) & (long < 1)).all()


def _philox_4x64(counter: int, key: tuple[int, int]) -> list[int]:
    """Ten rounds as published, in Python's own integers."""
    c, k, low = [counter, 0, 0, 0], list(key), 2**64 - 1
    for _ in range(10):
        first, second = c[0] * 0xD2E7470EE14C6C93, c[2] * 0xCA5A826395121157
        c = [second >> 64 ^ c[1] ^ k[0], second & low, first >> 64 ^ c[3] ^ k[1], first & low]
        k = [(k[0] + 0x9E3779B97F4A7C15) & low, (k[1] + 0xBB67AE8584CAA73B) & low]
    return c


def test_uniforms_are_philox_as_published():
    raw = [word for counter in (1, 2) for word in _philox_4x64(counter, (11, 5))]
    assert uniforms(11, 5, 2, 4).reshape(-1).tolist() == [(word >> 11) / 2**53 for word in raw]


@pytest.mark.parametrize("shape", [(1, 7), (3, 7), (1, 1, 5), (1, 2, 5), (1, 1)])
def test_running_sums_add_in_order_and_never_take_one_row_alone(shape, monkeypatch):
    values = torch.rand(shape, dtype=torch.float64)
    expected = np.cumsum(values.numpy(), axis=-1)
    real, handed = torch.Tensor.cumsum_, []

    def cumsum_(tensor, dim):
        handed.append(tensor.numel() // tensor.shape[dim])
        return real(tensor, dim)

    monkeypatch.setattr(torch.Tensor, "cumsum_", cumsum_)
    found = running_sums(values)
    assert found.shape == shape
    assert found.numpy().tobytes() == expected.tobytes()
    assert handed[0] >= 2
    draw_ids(torch.rand(1, 50), torch.rand(1, 1, dtype=torch.float64))
    assert min(handed) >= 2
