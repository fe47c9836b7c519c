"""Inputs for the head's bench, and the ways to a loss that are compared: each runs forward and backward once.

Random hidden states and weights, and records scored from random logits that fall off as word frequencies do. Letters:
**N** positions, **D** model width, **V** effective vocabulary, **K** head ids, **M** draws.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.cache.layout import RecordLayout
from pipeline.cache.settings import DEFAULTS
from pipeline.distill.loss.record_tensors import RecordTensors
from pipeline.distill.loss.routing import Router
from pipeline.distill.loss.softening import SoftTarget
from pipeline.distill.losses import distillation_loss
from pipeline.distill.settings import Objective, TrainSettings
from pipeline.distill.weighting.loss_weights import LossWeights
from pipeline.models.draws import uniforms
from pipeline.models.head import Head
from pipeline.models.scores import Scores
from pipeline.models.scoring import score

DRAW_BETA = float(DEFAULTS["topk"]["draw_beta"])
CE_WEIGHT, KD_WEIGHT = 0.1, 0.9
_CHUNK_POSITIONS = 512  # distillation_loss's own default
_DISTINCT_RECORDS = 512
_SCORED_AT_ONCE = 128
_SPREAD_NATS = 2.0


@dataclass(frozen=True, slots=True)
class HeadSizes:
    """How large a case is."""

    positions: int = 4096
    width: int = 576
    vocab_size: int = 49_152
    head_size: int = 256
    num_draws: int = int(DEFAULTS["topk"]["num_draws"])


@dataclass(frozen=True, slots=True, eq=False)
class HeadCase:
    """What a loss through the head is made of; hidden states and weight want gradients."""

    hidden_ND: Tensor
    weight_VD: Tensor
    labels_N: Tensor
    records: RecordTensors
    autocast: torch.dtype | None = None

    @classmethod
    def random(cls, sizes: HeadSizes, device: torch.device, dtype: torch.dtype = torch.float32) -> Self:
        """A case of these sizes, the same every time."""
        generator = torch.Generator().manual_seed(0)
        hidden_ND = torch.randn(sizes.positions, sizes.width, generator=generator)
        weight_VD = torch.randn(sizes.vocab_size, sizes.width, generator=generator) * sizes.width**-0.5
        labels_N = torch.randint(sizes.vocab_size, (sizes.positions,), generator=generator)
        records = random_records(sizes, labels_N.to(device), generator)
        hidden_ND, weight_VD = (
            tensor.to(device=device, dtype=dtype).requires_grad_() for tensor in (hidden_ND, weight_VD)
        )
        return cls(hidden_ND, weight_VD, labels_N.to(device), records)

    def cast(self, dtype: torch.dtype, autocast: torch.dtype | None = None) -> Self:
        """The same with hidden states and weight of another dtype, or worked on under autocast."""
        hidden_ND, weight_VD = (
            tensor.detach().to(dtype).requires_grad_() for tensor in (self.hidden_ND, self.weight_VD)
        )
        return replace(self, hidden_ND=hidden_ND, weight_VD=weight_VD, autocast=autocast)

    def first(self, count: int) -> Self:
        """Its first positions; the weight is shared."""
        rows = torch.arange(count, device=self.hidden_ND.device)
        hidden_ND = self.hidden_ND[:count].detach().clone().requires_grad_()
        return replace(self, hidden_ND=hidden_ND, labels_N=self.labels_N[:count], records=self.records.rows(rows))

    def side(self, loss: Callable[[HeadCase], Tensor]) -> Callable[[], float]:
        """Work that makes the loss and both gradients, and is done when it returns."""

        def work() -> float:
            self.hidden_ND.grad = self.weight_VD.grad = None
            device_type = self.hidden_ND.device.type
            autocast = contextlib.nullcontext() if self.autocast is None else torch.autocast(device_type, self.autocast)
            with autocast:
                value = loss(self)
            value.backward()  # type: ignore[no-untyped-call]
            return finished(value)

        return work


def finished(value: Tensor) -> float:
    """The number; on a card, once all the work there is done."""
    if value.is_cuda:
        torch.cuda.synchronize(value.device)
    return float(value.detach())


def random_records(sizes: HeadSizes, labels_N: Tensor, generator: torch.Generator) -> RecordTensors:
    """What a teacher with random logits would have recorded, at a few hundred positions, over and over."""
    layout = RecordLayout.for_vocabulary(sizes.vocab_size, sizes.head_size, sizes.num_draws, DRAW_BETA)
    order_V = torch.randperm(sizes.vocab_size, generator=generator)
    frequency_V = -torch.arange(1, sizes.vocab_size + 1).log()[order_V].to(labels_N.device)
    num_positions, labels_N = len(labels_N), labels_N[:_DISTINCT_RECORDS]
    draws_NM = torch.from_numpy(uniforms(0, 0, len(labels_N), layout.num_draws)).to(labels_N.device)
    on_device = torch.Generator(labels_N.device).manual_seed(1)
    parts: list[Scores] = []
    for start in range(0, len(labels_N), _SCORED_AT_ONCE):
        rows = slice(start, start + _SCORED_AT_ONCE)
        shape = (len(labels_N[rows]), sizes.vocab_size)
        logits_nV = torch.randn(shape, generator=on_device, device=labels_N.device).mul_(_SPREAD_NATS).add_(frequency_V)
        parts.append(score(logits_nV, labels_N[rows], draws_NM[rows], layout))
    scores = Scores.concatenate(parts)
    rows_N = torch.arange(num_positions, device=labels_N.device) % len(labels_N)
    return RecordTensors(
        layout=layout,
        ids_NK=scores.ids_nK,
        logprobs_NK=scores.logprobs_nK,
        tail_NR=scores.tail_nR,
        draw_ids_NM=scores.draw_ids_nM,
        draw_logprobs_NM=scores.draw_logprobs_nM,
        label_logprobs_N=scores.label_logprobs_n,
        entropies_N=scores.entropies_n,
    ).rows(rows_N)


# ------------------------------------------------------------------ the losses


def ours(
    objective: Objective, temperature: float, router: Router | None = None, chunk_positions: int = _CHUNK_POSITIONS
) -> Callable[[HeadCase], Tensor]:
    """The product's own loss."""

    def loss(case: HeadCase) -> Tensor:
        return distillation_loss(
            case.hidden_ND,
            Head(case.weight_VD),
            case.labels_N,
            case.records,
            temperature,
            objective,
            CE_WEIGHT,
            KD_WEIGHT,
            chunk_positions=chunk_positions,
            router=router,
        ).loss

    return loss


def ours_by_default(device: torch.device) -> Callable[[HeadCase], Tensor]:
    """The same as a training has it where nothing is set: its objective, temperature and router."""
    settings = TrainSettings(steps=1)
    router = LossWeights(settings, num_steps=1, device=device).at(0).router
    return ours(settings.objective, settings.temperature.start, router)


def plain_ce(case: HeadCase) -> Tensor:
    """Cross-entropy as everybody writes it."""
    return functional.cross_entropy(case.hidden_ND @ case.weight_VD.T, case.labels_N)


def linear_ce(case: HeadCase) -> Tensor:
    """PyTorch's own fused cross-entropy, in chunks as large as ours: on CPU its fastest."""
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=_CHUNK_POSITIONS, chunking_method=None)
    return functional.linear_cross_entropy(case.hidden_ND, case.weight_VD, case.labels_N, options=options)


def linear_ce_auto(case: HeadCase) -> Tensor:
    """The same in the chunks it picks itself, which are smaller."""
    options = torch.nn.LinearCrossEntropyOptions()
    return functional.linear_cross_entropy(case.hidden_ND, case.weight_VD, case.labels_N, options=options)


def has_linear_ce() -> bool:
    """From PyTorch 2.13 on."""
    return hasattr(functional, "linear_cross_entropy") and hasattr(torch.nn, "LinearCrossEntropyOptions")


def whole_sampled_tail(temperature: float) -> Callable[[HeadCase], Tensor]:
    """`sampled_tail` on all logits at once, by plain autograd; the formula of pipeline/distill/loss/objectives.py."""

    def loss(case: HeadCase) -> Tensor:
        target = SoftTarget.of(case.records, case.labels_N, temperature, "sampled_tail")
        logits_NV = (case.hidden_ND @ case.weight_VD.T).float()
        ce_N = functional.cross_entropy(logits_NV, case.labels_N, reduction="none")
        scaled_NV = logits_NV / temperature
        log_z_N1 = scaled_NV.logsumexp(dim=1, keepdim=True)
        log_tail_N1 = scaled_NV.scatter(1, target.ids_NK, -torch.inf).logsumexp(dim=1, keepdim=True)
        logq_NK, logq_tail_N = scaled_NV.gather(1, target.ids_NK) - log_z_N1, (log_tail_N1 - log_z_N1)[:, 0]
        within_NM = scaled_NV.gather(1, target.draw_ids_NM) - log_tail_N1
        kd_N = (target.logp_head_NK.exp() * (target.logp_head_NK - logq_NK)).sum(dim=1)
        kd_N = kd_N + target.logp_tail_N.exp() * (target.logp_tail_N - logq_tail_N)
        kd_N = kd_N + (target.draw_masses_NM * (target.draw_logp_NM - within_NM)).sum(dim=1)
        return (CE_WEIGHT * ce_N + KD_WEIGHT * temperature**2 * kd_N).mean()

    return loss


# ------------------------------------------------------------------ distillation on logits that are there


def kd_side(num_rows: int, num_ids: int, device: torch.device, temperature: float = 2.0) -> Callable[[], float]:
    """Forward and backward of classic distillation on given logits [num_rows, num_ids] of student and teacher."""
    generator = torch.Generator(device).manual_seed(0)
    student_NX, teacher_NX = (torch.randn(num_rows, num_ids, generator=generator, device=device) for _ in range(2))
    student_NX.requires_grad_()

    def work() -> float:
        student_NX.grad = None
        logq_NX, logp_NX = ((logits / temperature).log_softmax(dim=1) for logits in (student_NX, teacher_NX))
        loss = functional.kl_div(logq_NX, logp_NX, reduction="batchmean", log_target=True) * temperature**2
        loss.backward()  # type: ignore[no-untyped-call]
        return finished(loss)

    return work


# ------------------------------------------------------------------ the same, in a process that measures memory


def memory_of_ours(sizes: dict[str, int], device: str) -> Callable[[], float]:
    """`sampled_tail` at τ = 2 by the product's loss."""
    return _prepared(sizes, device, ours("sampled_tail", 2.0))


def memory_of_whole(sizes: dict[str, int], device: str) -> Callable[[], float]:
    """The same by plain autograd on whole logits."""
    return _prepared(sizes, device, whole_sampled_tail(2.0))


def memory_of_kd(num_rows: int, num_ids: int, device: str) -> Callable[[], float]:
    """Distillation on given logits."""
    kd_side(2, 8, torch.device(device))()
    return kd_side(num_rows, num_ids, torch.device(device))


def _prepared(sizes: dict[str, int], device: str, loss: Callable[[HeadCase], Tensor]) -> Callable[[], float]:
    case = HeadCase.random(HeadSizes(**sizes), torch.device(device))
    case.first(2).side(loss)()  # loads libraries and starts threads, whose memory is not the loss's
    case.weight_VD.grad = None
    return case.side(loss)
