"""A small problem for distillation_loss, and the dense float64 answer to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.distill import LossParts, distillation_loss
from pipeline.distill.settings import Objective
from pipeline.models.head import Head
from tests.distill import dense

OBJECTIVES: tuple[Objective, ...] = ("sampled_tail", "bucket", "subset", "reverse_kl", "jsd", "ranked")

TEMPERATURES = (1.0, 1.3, 2.0, 3.0)

HEADS = ("plain", "bias", "scale", "softcap", "padded", "everything", "logits")

N, D, V, K, M = 37, 12, 40, 8, 5


@dataclass
class Case:
    """A problem of N positions, in float32 leaves that want gradients."""

    hidden_ND: Tensor
    head: Head
    labels_N: Tensor
    weights_N: Tensor
    teacher: dense.Teacher

    @property
    def leaves(self) -> list[Tensor]:
        return [leaf for leaf in (self.hidden_ND, self.head.weight_VD, self.head.bias_V) if leaf is not None]

    def loss(self, **changes: Any) -> LossParts:
        defaults = {"weights_N": self.weights_N, "normaliser": 11.0, "chunk_positions": 10, "ce_weight": 0.3}
        given = defaults | {"kd_weight": 0.7} | changes
        return distillation_loss(self.hidden_ND, self.head, self.labels_N, self.teacher.records, **given)

    def dense_loss(self, temperature: float, objective: str) -> tuple[Tensor, Tensor, Tensor]:
        logits_NV = dense.dense_logits(self.hidden_ND, self.head)
        ce_N = dense.cross_entropy(logits_NV, self.labels_N)
        kd_N = dense.kd(logits_NV, self.teacher, temperature, objective)
        return (self.weights_N * (0.3 * ce_N + 0.7 * temperature**2 * kd_N)).sum() / 11.0, ce_N, kd_N


def make_case(kind: str = "plain", count: int = N, vocab_size: int = V, head_size: int = K) -> Case:
    generator = torch.Generator().manual_seed(5)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    rows = vocab_size + 6 if kind in ("padded", "logits") else vocab_size
    weight_VD, bias_V, hidden_ND = leaf(rows, D), leaf(rows), leaf(count, D)
    head = Head(weight_VD, num_effective=vocab_size)
    if kind == "bias":
        head = Head(weight_VD, bias_V)
    elif kind == "scale":
        head = Head(weight_VD, bias_V, scale=0.4)
    elif kind == "softcap":
        head = Head(weight_VD, bias_V, scale=1.3, softcap=2.0)
    elif kind == "logits":
        head, hidden_ND = Head(None, num_effective=vocab_size), leaf(count, rows)
    teacher_NV = 2.5 * torch.randn(count, vocab_size, generator=generator)
    head_size = vocab_size if kind == "everything" else head_size
    case = Case(
        hidden_ND,
        head,
        torch.randint(0, vocab_size, (count,), generator=generator),
        torch.rand(count, generator=generator) * (torch.rand(count, generator=generator) > 0.3),
        dense.make_teacher(teacher_NV, head_size, M),
    )
    case.teacher.records.label_logprobs_T[:] = case.teacher.logp_NV.gather(1, case.labels_N[:, None])[:, 0].numpy()
    return case


def spoil_masked(case: Case) -> Tensor:
    """Put what must not matter where no position counts, infinite hidden states included; returns which those are."""
    masked_N = case.weights_N == 0
    assert masked_N.any()
    with torch.no_grad():
        case.hidden_ND[masked_N] = torch.inf
    case.labels_N[masked_N] = -100
    for field in case.teacher.records.fields():
        field[masked_N.numpy()] = 0
    return masked_N


def make_half_case(dtype: torch.dtype) -> tuple[Case, list[Tensor]]:
    """A larger case with all positions weighted and leaves of half precision, and those leaves."""
    case = make_case("bias", count=512, vocab_size=256)
    case.weights_N = torch.ones(512)
    half = [leaf.detach().to(dtype).requires_grad_() for leaf in case.leaves]
    case.hidden_ND, case.head = half[0], Head(half[1], half[2])
    return case, half


def on_logits(logits_NV: Tensor, teacher: dense.Teacher, objective: Any, temperature: float = 1.0) -> LossParts:
    """KD alone, summed, of given logits."""
    labels_N = torch.zeros(len(logits_NV), dtype=torch.int64)
    return distillation_loss(
        logits_NV, Head(None), labels_N, teacher.records, temperature, objective, 0.0, 1.0, normaliser=1.0
    )


def logits(count: int, vocab_size: int, seed: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(count, vocab_size, generator=torch.Generator().manual_seed(seed))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def replace_records(teacher: dense.Teacher, records: Any) -> dense.Teacher:
    changed = dense.Teacher(teacher.logp_NV, teacher.records)
    changed.records = records
    return changed


def make_drawless() -> dense.Teacher:
    return dense.make_teacher(torch.randn(N, V, generator=torch.Generator().manual_seed(0)), K, num_draws=0)
