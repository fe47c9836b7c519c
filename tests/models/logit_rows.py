"""Logits of every shape a teacher may give, how they are scored here, and the dense facts of a row."""

from __future__ import annotations

import torch

from pipeline.cache.layout import RecordLayout
from pipeline.models.scores import Scores
from pipeline.models.scoring import score


def logit_rows(vocab_size: int) -> dict[str, torch.Tensor]:
    """Name -> logits [n, V]: ordinary, tied, peaked, far apart."""
    generator = torch.Generator().manual_seed(vocab_size)
    normal = torch.randn(6, vocab_size, generator=generator)
    kinked = torch.full((2, vocab_size), -3.0)
    kinked[:, ::3] = 2.0
    sharp = normal * 2.0
    sharp[:, vocab_size // 2] += 40.0
    far = normal.clone()
    far[:, 0] = -1e4
    two_far_above = normal.clone()
    two_far_above[:, :2] = torch.tensor([700.0, 699.0])
    return {
        "random": normal * 3,
        "flat": torch.zeros(2, vocab_size),
        "kinked": kinked,
        "sharp": sharp,
        "wide": normal * 100,
        "far": far,
        "offset": normal + 500.0,
        "two far above": two_far_above,
    }


def labels_of(logits: torch.Tensor) -> torch.Tensor:
    """A label for each row."""
    return torch.arange(len(logits)) * 31 % logits.shape[1]


def scored(logits: torch.Tensor, layout: RecordLayout) -> Scores:
    """The scores of a copy, with seeded random numbers for its draws."""
    uniform = torch.rand(len(logits), layout.num_draws, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return score(logits.clone(), labels_of(logits), uniform, layout)


def check_facts(found: Scores, logits: torch.Tensor) -> None:
    """Label log p and entropy are those of the dense softmax."""
    logp = logits.double().log_softmax(dim=1)
    expected = logp.gather(1, labels_of(logits)[:, None])[:, 0]
    torch.testing.assert_close(found.label_logprobs_n.double(), expected, rtol=1e-6, atol=1e-5)
    entropies = -(logp.exp() * logp).nan_to_num(0.0).sum(dim=1)
    torch.testing.assert_close(found.entropies_n.double(), entropies, rtol=1e-5, atol=2e-5)
