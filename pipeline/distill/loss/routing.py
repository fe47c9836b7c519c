"""Routing: what each position is to learn, its labels, the teacher or the teacher's order, from what is known of it.

    loss_n = r_ce·ce_weight·CE_n + r_kd·kd_weight·τ²·KD_n + r_rank·rank_weight·RANK_n

A router gives every position its r_ce, r_kd and r_rank, which are numbers to the loss: no gradient flows through them.
It looks at six signals, three from the cache and three of the student as the chunk's logits show it:

    H_t     the teacher's entropy                    H_s     the student's entropy, of routers that ask for it
    l_t     the teacher's log p of the label         gap     CE_student − CE_teacher = −log q(label) + l_t
    m       the teacher's mass in the head           agrees  1 where the student's first choice is the teacher's

all at τ = 1, in nats (m is a share). Kinds: `uniform` is no router, all ones, at no cost; `gap` and `trust` are here;
`learned` is in gate.py. Letters: **n** positions, 6 signals, 3 parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import torch
from torch import Tensor

from pipeline.distill.settings import Part

PARTS: tuple[Part, ...] = ("ce", "kd", "rank")
LEAST_TRUST = 0.1
"""The weight, before means are taken out, of what `trust` trusts least: nothing is ever unheard"""


class Signal(IntEnum):
    """Columns of the signals [n, 6]."""

    TEACHER_ENTROPY = 0
    TEACHER_LABEL = 1
    HEAD_MASS = 2
    STUDENT_ENTROPY = 3
    GAP = 4
    AGREES = 5


class Router(Protocol):
    """What gives positions their weights."""

    @property
    def asks_entropy(self) -> bool:
        """Whether it looks at the student's entropy, which costs a pass over [n, V]; else that column is 0."""
        ...

    def route(self, signals_n6: Tensor) -> Tensor:
        """The weights [n, 3] of PARTS, at least 0; of a position's own signals and nothing else."""
        ...


@dataclass(frozen=True, slots=True)
class Gap:
    """More where the student lags behind the teacher, for all parts alike:

        r = 1/2 + g/(1 + g),    g = max(0, gap)

    between 1/2, where the student gives the label as much as the teacher does, and 3/2. The gap is the excess loss of
    Lin et al. 2024 (Rho-1, arXiv:2404.07965, equation 3), which there picks tokens and here weighs them.
    """

    asks_entropy: bool = False

    def route(self, signals_n6: Tensor) -> Tensor:
        """One weight a position, for each part the same."""
        lag_n = signals_n6[:, Signal.GAP].clamp_min(0.0)
        return (0.5 + lag_n / (1.0 + lag_n))[:, None].expand(-1, len(PARTS))


@dataclass(frozen=True, slots=True)
class Trust:
    """The teacher where it is right or close, the labels where it is wrong:

        t = exp( −max(0, −l_t − H_t) )
        r_kd = r_rank = ε + (1 − ε)·t        r_ce = ε + (1 − ε)·(1 − t)        ε = LEAST_TRUST

    t is 1 wherever the label surprises the teacher no more than it expects to be surprised. That includes every label
    it puts first: −log max p ≤ H. A teacher that is sure of another id has H near 0 and a trust near its p(label).
    """

    asks_entropy: bool = False

    def route(self, signals_n6: Tensor) -> Tensor:
        """Trust for the teacher's parts, distrust for the labels."""
        excess_n = -signals_n6[:, Signal.TEACHER_LABEL] - signals_n6[:, Signal.TEACHER_ENTROPY]
        trust_n = (-excess_n.clamp_min(0.0)).exp()
        teacher_n = LEAST_TRUST + (1.0 - LEAST_TRUST) * trust_n
        return torch.stack([1.0 + LEAST_TRUST - teacher_n, teacher_n, teacher_n], dim=1)


@dataclass(frozen=True, slots=True)
class Normalised:
    """A router's weights over the means they had in earlier steps, so that they move loss between positions and leave
    the share of each part, about, to its weight."""

    router: Router
    means: tuple[float, float, float]
    """of PARTS; 1 before anything has been seen"""

    @property
    def asks_entropy(self) -> bool:
        """Whether the router needs the student's entropy at each position."""
        return self.router.asks_entropy

    def route(self, signals_n6: Tensor) -> Tensor:
        """The router's weights r_k, each over its mean in earlier steps [n, 3]."""
        columns = zip(self.router.route(signals_n6).unbind(dim=1), self.means, strict=True)
        return torch.stack([column_n / mean for column_n, mean in columns], dim=1)
