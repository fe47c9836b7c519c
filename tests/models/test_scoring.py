"""Scoring against dense float64 formulas: heads with ties, tail masses, entropies, draws, K ≥ V, extreme logits."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.cache.layout import RecordLayout
from pipeline.cache.settings import BETAS
from pipeline.models import scoring
from pipeline.models import top_ids as top_ids_module
from pipeline.models.scores import Scores
from pipeline.models.scoring import finite_rows
from pipeline.models.top_ids import top_ids
from tests.models.logit_rows import check_facts, logit_rows, scored


def _layout(vocab_size: int, head_size: int, num_draws: int = 4, draw_beta: float = 0.7) -> RecordLayout:
    return RecordLayout.for_vocabulary(vocab_size, head_size, num_draws, draw_beta)


def _slow_top(logits: torch.Tensor, head_size: int) -> torch.Tensor:
    """Stable descending sort: among equals the lowest id comes first."""
    order = logits.sort(dim=1, descending=True, stable=True).indices[:, :head_size]
    return order.sort(dim=1).values


@pytest.mark.parametrize("kind", logit_rows(8))
@pytest.mark.parametrize(
    ("vocab_size", "head_size"), [(2, 1), (8, 3), (8, 7), (300, 1), (300, 16), (300, 299), (5003, 64)]
)
def test_scores_are_the_dense_formulas(vocab_size, head_size, kind):
    logits = logit_rows(vocab_size)[kind]
    layout = _layout(vocab_size, head_size)
    found = scored(logits, layout)
    logp = logits.double().log_softmax(dim=1)
    ids = _slow_top(logits, head_size)
    assert torch.equal(found.ids_nK, ids)
    torch.testing.assert_close(found.logprobs_nK.double(), logp.gather(1, ids), rtol=1e-6, atol=1e-5)
    tail = logp.scatter(1, ids, -math.inf)
    for column, beta in enumerate(BETAS):
        expected = (beta * tail).logsumexp(dim=1)
        torch.testing.assert_close(found.tail_nR[:, column].double(), expected, rtol=1e-6, atol=2e-5)
    check_facts(found, logits)
    drawn = tail.gather(1, found.draw_ids_nM)
    assert bool(drawn.isfinite().all())  # no head id among the draws
    torch.testing.assert_close(found.draw_logprobs_nM.double(), drawn, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("head_size", [8, 9, 300])
def test_a_head_as_wide_as_the_vocabulary_has_an_empty_tail_and_no_nan(head_size):
    logits = logit_rows(8)["wide"]
    found = scored(logits, _layout(8, head_size))
    logp = logits.double().log_softmax(dim=1)
    assert torch.equal(found.ids_nK, torch.arange(8).expand(len(logits), 8))
    torch.testing.assert_close(found.logprobs_nK.double(), logp, rtol=1e-6, atol=1e-6)
    assert bool((found.tail_nR == -math.inf).all())
    assert found.draw_ids_nM.shape == found.draw_logprobs_nM.shape == (len(logits), 0)
    expected = -(logp.exp() * logp).sum(dim=1)
    torch.testing.assert_close(found.entropies_n.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("vocab_size", [10, 40, 999, 4096])
@pytest.mark.parametrize("head_size", [1, 5, 9])
def test_ties_take_the_lowest_ids(vocab_size, head_size):
    generator = torch.Generator().manual_seed(head_size)
    logits = torch.randint(0, 4, (40, vocab_size), generator=generator).float()
    logits[0] = 1.0
    logits[1] = torch.arange(vocab_size).float()
    ids, tail_max = top_ids(logits, head_size)
    assert torch.equal(ids, _slow_top(logits, head_size))
    rest = logits.scatter(1, ids, -math.inf)
    assert torch.equal(tail_max[:, 0], rest.amax(dim=1))


@pytest.mark.parametrize("tied_ids", [1, 3 * 40, 2**22])
def test_rows_with_a_tie_are_done_in_bounded_parts(tied_ids, monkeypatch):
    monkeypatch.setattr(top_ids_module, "_TIED_IDS", tied_ids)
    generator = torch.Generator().manual_seed(4)
    logits = torch.randint(0, 4, (23, 40), generator=generator).float()
    logits[5] = torch.arange(40).float()  # one without a tie among them
    assert torch.equal(top_ids(logits, 9)[0], _slow_top(logits, 9))


@pytest.mark.parametrize("draw_beta", BETAS)
def test_draws_follow_the_tail_at_their_own_beta(draw_beta):
    """χ² of many draws against p^β_d, renormalised over the tail."""
    logits = torch.randn(1, 60, generator=torch.Generator().manual_seed(2)) * 2
    layout = RecordLayout(60, 6, 100_000, draw_beta=draw_beta)
    found = scored(logits, layout)
    tail = (draw_beta * logits.double()).scatter(1, found.ids_nK, -math.inf).softmax(dim=1)[0]
    counts = torch.bincount(found.draw_ids_nM[0], minlength=60).double()
    inside = tail > 0
    expected = tail[inside] * layout.num_draws
    chi_squared = float(((counts[inside] - expected) ** 2 / expected).sum())
    assert counts[~inside].sum() == 0
    assert chi_squared < 53 + 5 * (2 * 53) ** 0.5


def test_blocks_of_rows_change_nothing(monkeypatch):
    logits, layout = logit_rows(300)["random"], _layout(300, 16)
    whole = scored(logits, layout)
    monkeypatch.setattr(scoring, "_CPU_BLOCK_BYTES", 2 * 4 * 300)
    blocks = scored(logits, layout)
    for name in Scores.__slots__:
        assert torch.equal(getattr(whole, name), getattr(blocks, name)), name


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_rows_that_are_not_finite_are_found(value):
    logits = torch.randn(3, 50)
    logits[1, 7] = value
    assert finite_rows(logits).tolist() == [True, False, True]


def test_opposite_infinities_do_not_cancel():
    logits = torch.zeros(1, 4)
    logits[0, :2] = torch.tensor([math.inf, -math.inf])
    assert not finite_rows(logits).any()


def test_a_layout_without_draws_draws_nothing():
    found = scored(logit_rows(300)["random"], _layout(300, 16, num_draws=0))
    assert found.draw_ids_nM.shape == (6, 0)
