"""Scoring for the kinds `compact` and `sampled` against dense float64 formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import PADDING_ID
from pipeline.cache.settings import BETAS
from pipeline.models.scoring_compact import fewest_reaching
from tests.cache.dense import log_softmax, tail_mask
from tests.models.logit_rows import check_facts, logit_rows, scored


def _compact(vocab_size: int, head_size: int, mass: float, num_draws: int = 4, beta: float = 0.7) -> RecordLayout:
    return RecordLayout.for_vocabulary(vocab_size, head_size, num_draws, beta, kind="compact", head_mass=mass)


def _sampled(vocab_size: int, num_draws: int) -> RecordLayout:
    return RecordLayout.for_vocabulary(vocab_size, 0, num_draws, 1.0, kind="sampled")


@pytest.mark.parametrize("kind", logit_rows(8))
@pytest.mark.parametrize("mass", [0.01, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize(("vocab_size", "head_size"), [(2, 1), (8, 3), (8, 200), (300, 16), (300, 255), (5003, 64)])
def test_compact_scores_are_the_dense_formulas(vocab_size, head_size, mass, kind):
    logits = logit_rows(vocab_size)[kind]
    layout = _compact(vocab_size, head_size, mass)
    found = scored(logits, layout)
    logp = torch.from_numpy(log_softmax(logits.double().numpy()))
    tail = torch.from_numpy(tail_mask(layout, logits.double().numpy()))
    real = found.ids_nK != PADDING_ID
    for row in range(len(logits)):
        ids = torch.nonzero(~tail[row])[:, 0]
        assert found.ids_nK[row, real[row]].tolist() == ids.tolist()
        assert not real[row, len(ids) :].any()
        torch.testing.assert_close(found.logprobs_nK[row, : len(ids)].double(), logp[row, ids], rtol=1e-6, atol=1e-5)
    assert torch.equal(found.logprobs_nK == -math.inf, ~real)
    for column, beta in enumerate(BETAS):
        expected = (beta * logp).masked_fill(~tail, -math.inf).logsumexp(dim=1)
        torch.testing.assert_close(found.tail_nR[:, column].double(), expected, rtol=1e-6, atol=2e-5)
    check_facts(found, logits)
    assert bool(tail.gather(1, found.draw_ids_nM).all())  # no head id among the draws
    drawn = logp.gather(1, found.draw_ids_nM)
    torch.testing.assert_close(found.draw_logprobs_nM.double(), drawn, rtol=1e-6, atol=4e-5)  # float32 at 700 nats


@pytest.mark.parametrize("beta", [0.25, 0.5, 0.7, 1.0])
def test_compact_draws_follow_the_whole_tail(beta):
    """χ² against p^β over everything outside the row's own head, the candidates that were left over included."""
    logits = torch.randn(1, 60, generator=torch.Generator().manual_seed(2)) * 2
    layout = _compact(60, 30, 0.5, num_draws=100_000, beta=beta)
    found = scored(logits, layout)
    tail = torch.from_numpy(tail_mask(layout, logits.double().numpy()))[0]
    assert 30 < int(tail.sum()) < 60
    expected = (beta * logits[0].double()).masked_fill(~tail, -math.inf).softmax(dim=0) * layout.num_draws
    _assert_drawn(torch.bincount(found.draw_ids_nM[0], minlength=60), expected)


def test_compact_draws_where_what_is_left_over_towers_above_the_rest():
    """Two ids of nearly all the mass, 700 nats above: one is the head, and the tail is the other."""
    found = scored(logit_rows(300)["two far above"], _compact(300, 16, 0.5, num_draws=20))
    assert found.ids_nK[:, 0].tolist() == [0] * 6
    assert (found.draw_ids_nM == 1).all()


def test_a_position_alone_has_the_head_it_has_among_others_and_is_never_summed_alone(monkeypatch):
    """On a card a running sum over one row alone may differ from one time to the next."""
    logp = torch.randn(5, 40, generator=torch.Generator().manual_seed(6)).double().log_softmax(dim=1)
    together = fewest_reaching(logp, 0.8)
    in_place, out_of_place, handed = torch.Tensor.cumsum_, torch.Tensor.cumsum, []

    def counting(real):
        def cumsum(tensor, dim):
            handed.append(tensor.numel() // tensor.shape[dim])
            return real(tensor, dim)

        return cumsum

    monkeypatch.setattr(torch.Tensor, "cumsum_", counting(in_place))
    monkeypatch.setattr(torch.Tensor, "cumsum", counting(out_of_place))
    assert all(torch.equal(fewest_reaching(row[None], 0.8)[0], kept) for row, kept in zip(logp, together, strict=True))
    assert min(handed) >= 2


@pytest.mark.parametrize("kind", logit_rows(8))
@pytest.mark.parametrize(("vocab_size", "num_draws"), [(1, 3), (2, 5), (8, 50), (300, 50), (5003, 12)])
def test_sampled_scores(vocab_size, num_draws, kind):
    logits = logit_rows(8)[kind][:, :1].expand(-1, 1) if vocab_size == 1 else logit_rows(vocab_size)[kind]
    layout = _sampled(vocab_size, num_draws)
    found = scored(logits, layout)
    counts = (found.logprobs_nK.double().exp() * num_draws).round()
    real = found.ids_nK != PADDING_ID
    assert counts.sum(dim=1).tolist() == [num_draws] * len(logits)
    assert torch.equal(counts > 0, real)
    assert bool((found.ids_nK[:, 1:] > found.ids_nK[:, :-1])[real[:, 1:]].all())
    assert int(found.ids_nK[real].max()) < vocab_size
    torch.testing.assert_close(found.logprobs_nK.double()[real], (counts / num_draws).log()[real], rtol=1e-6, atol=1e-7)
    assert (found.tail_nR == -math.inf).all()
    assert found.tail_nR.shape == (len(logits), 1)
    assert found.draw_ids_nM.shape == found.draw_logprobs_nM.shape == (len(logits), 0)
    check_facts(found, logits)


def test_sampled_draws_follow_the_teacher():
    logits = torch.randn(1, 60, generator=torch.Generator().manual_seed(2)) * 2
    layout = _sampled(60, 100_000)
    found = scored(logits, layout)
    counts = torch.zeros(60, dtype=torch.float64)
    counts[found.ids_nK[0]] = found.logprobs_nK[0].double().exp() * layout.num_draws
    _assert_drawn(counts, logits[0].double().softmax(dim=0) * layout.num_draws)


def _assert_drawn(counts: torch.Tensor, expected: torch.Tensor) -> None:
    """Pearson's χ² within five standard deviations of its mean; nothing where nothing can be."""
    inside = expected > 0
    assert counts[~inside].sum() == 0
    chi_squared = float(((counts[inside] - expected[inside]) ** 2 / expected[inside]).sum())
    degrees = int(inside.sum()) - 1
    assert chi_squared < degrees + 5 * np.sqrt(2 * degrees)
