"""Loss and gradients through the output matrix, in chunks of positions: [N, V] never exists.

Each chunk's logits are computed, scored, overwritten with their gradient, multiplied into the gradients of the hidden
states and of the matrix, and dropped. Three products a chunk in all, as many as the plain loss takes; backward only
scales what forward left.

Letters: **N** positions, **n** those of a chunk, **V** effective vocabulary, **D** model width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from pipeline.distill.loss.objectives import Goal, Scores, score_
from pipeline.distill.loss.routing import Router
from pipeline.distill.loss.softening import SoftTarget
from pipeline.models.head import Head, product_float32

_HALF_PEAK = 2.0**14  # the largest entry of a row, in a float16 gradient, lies in [this/2, this]
_BLOCK_BYTES = {"cpu": 2**22, "cuda": 2**26}  # of logits scored at once: scratch that stays in cache, or fills a card


@dataclass(frozen=True, slots=True, eq=False)
class LossInputs:
    """What the loss of N positions is made of, beside the hidden states and the output matrix."""

    labels_N: Tensor
    weights_N: Tensor
    target: SoftTarget
    goal: Goal
    chunk_positions: int
    router: Router | None = None

    def rows(self, rows: Tensor) -> Self:
        """Some of the positions."""
        target = self.target.rows(rows)
        return replace(self, labels_N=self.labels_N[rows], weights_N=self.weights_N[rows], target=target)

    def blank_scores(self, count: int) -> Scores:
        """Room for what is found out of `count` positions."""
        return Scores.blank(count, self.weights_N, self.goal.rank_weight != 0, self.router is not None)


@dataclass(slots=True, eq=False)
class HeadGradients:
    """Gradients of the summed loss by hidden states, matrix and bias, in float32; None where not wanted.

    The head's `scale` and the loss's normaliser are left out: numbers that are applied once, at the end.
    """

    hidden_ND: Tensor | None
    weight_VD: Tensor | None
    bias_V: Tensor | None
    begun: bool = False
    """whether `weight_VD` holds something yet: until then it may be memory as it was found"""

    @classmethod
    def blank(cls, hidden_ND: Tensor, head: Head, wanted: tuple[bool, bool, bool]) -> Self:
        """Zeros, in the shapes of hidden states, matrix and bias; the matrix's first product may write over memory as
        it was found."""
        overwritten = head.weight_VD is not None and head.weight_VD.dtype == torch.float32 and len(hidden_ND) > 0
        of_hidden_ND, of_weight_VD, of_bias_V = (
            torch.empty_like(like, dtype=torch.float32) if want and like is not None else None
            for want, like in zip(wanted, (hidden_ND, head.weight_VD, head.bias_V), strict=True)
        )
        for part in (of_hidden_ND, of_bias_V):
            if part is not None:
                part.zero_()
        if of_weight_VD is not None:
            of_weight_VD[head.vocab_size if overwritten else 0 :].zero_()
        return cls(of_hidden_ND, of_weight_VD, of_bias_V)

    def add(self, rows: slice, gradient_nV: Tensor, hidden_nD: Tensor, head: Head) -> None:
        """Multiply the gradient by a chunk's logits into the totals."""
        num_ids = gradient_nV.shape[1]
        if self.bias_V is not None:
            self.bias_V[:num_ids] += gradient_nV.sum(dim=0)
        if head.weight_VD is None:
            if self.hidden_ND is not None:
                self.hidden_ND[rows, :num_ids] = gradient_nV
        elif head.weight_VD.dtype == torch.float16:
            self._add_float16(rows, gradient_nV, hidden_nD, head.weight_VD[:num_ids])
        else:
            gradient_nV = gradient_nV.to(head.weight_VD.dtype)
            self._add_products(rows, gradient_nV, hidden_nD, head.weight_VD[:num_ids])

    def _add_products(self, rows: slice, gradient_nV: Tensor, hidden_nD: Tensor, weight_VD: Tensor) -> None:
        if self.hidden_ND is not None:
            self.hidden_ND[rows] = product_float32(gradient_nV, weight_VD.T)
        if self.weight_VD is not None:
            total_VD = self.weight_VD[: len(weight_VD)]
            if weight_VD.dtype == torch.float32:
                total_VD.addmm_(gradient_nV.T, hidden_nD, beta=1.0 if self.begun else 0.0)
                self.begun = True
            else:
                total_VD += product_float32(gradient_nV.T, hidden_nD.T)

    def _add_float16(self, rows: slice, gradient_nV: Tensor, hidden_nD: Tensor, weight_VD: Tensor) -> None:
        """The same with every row's gradient brought near the top of float16's range, by a power of two 2^k.

        Cast as they are, entries below 6e-8 would vanish, and with them most of a softmax's tail. The product by the
        matrix is undone row by row. The product by the hidden states sums over rows, so there each hidden row is
        brought to the smallest 2^k of the chunk: only rows whose gradient is tiny beside the largest lose precision.
        """
        power_n1 = _power_of_two(gradient_nV)
        half_nV = torch.empty_like(gradient_nV, dtype=torch.float16)
        torch.mul(gradient_nV, power_n1, out=half_nV)
        if self.hidden_ND is not None:
            self.hidden_ND[rows] = product_float32(half_nV, weight_VD.T).div_(power_n1)
        if self.weight_VD is not None:
            lowest = power_n1.min()
            level_nD = (hidden_nD * (lowest / power_n1)).to(torch.float16)
            self.weight_VD[: len(weight_VD)].addcdiv_(product_float32(half_nV.T, level_nD.T), lowest)


def _power_of_two(gradient_nV: Tensor) -> Tensor:
    """The 2^k [n, 1] that brings the largest entry of each row into [_HALF_PEAK/2, _HALF_PEAK]."""
    largest_n1 = torch.maximum(gradient_nV.amax(dim=1, keepdim=True), -gradient_nV.amin(dim=1, keepdim=True))
    return (_HALF_PEAK / largest_n1.clamp_min(1e-30)).log2().floor().exp2()


def score_chunks(hidden_ND: Tensor, head: Head, inputs: LossInputs, gradients: HeadGradients | None) -> Scores:
    """Scores of all positions; adds to the gradients on the way, where there are any to add to.

    `head.weight_VD` and `hidden_ND` have the dtype the products are to be made in.
    """
    scores, room_nV = inputs.blank_scores(len(hidden_ND)), _room(hidden_ND, head, inputs)
    for rows in _pieces(len(hidden_ND), inputs.chunk_positions):
        logits_nV = head.logits_float32(hidden_ND[rows], room_nV)  # ours alone, and about to be overwritten
        _score_chunk_(logits_nV, rows, head.softcap, inputs, scores, gradients is not None)
        if gradients is not None:
            gradients.add(rows, logits_nV, hidden_ND[rows], head)
        del logits_nV
    return scores


def _room(hidden_ND: Tensor, head: Head, inputs: LossInputs) -> Tensor | None:
    """Memory for the logits of one chunk after another; a card's allocator keeps its own."""
    if hidden_ND.device.type != "cpu" or head.weight_VD is None:
        return None
    num_ids = head.vocab_size or len(head.weight_VD)
    return torch.empty(min(inputs.chunk_positions, len(hidden_ND)), num_ids)


def _score_chunk_(
    logits_nV: Tensor, rows: slice, softcap: float | None, inputs: LossInputs, scores: Scores, with_gradient: bool
) -> None:
    """Score a chunk in blocks whose scratch is small, and leave the gradient by h Wᵀ (but for `scale`) in its place."""
    num_ids = logits_nV.shape[1]
    block_bytes = _BLOCK_BYTES.get(logits_nV.device.type, _BLOCK_BYTES["cuda"])
    for block in _pieces(len(logits_nV), max(1, block_bytes // (4 * num_ids))):
        logits_bV, at = logits_nV[block], slice(rows.start + block.start, rows.start + block.stop)
        slope_bV = _slope(logits_bV, softcap) if softcap is not None and with_gradient else None
        target, labels_b, weights_b = inputs.target.rows(at), inputs.labels_N[at], inputs.weights_N[at]
        scores.put(at, score_(logits_bV, labels_b, weights_b, target, inputs.goal, with_gradient, inputs.router))
        if slope_bV is not None:
            logits_bV.mul_(slope_bV)


def _slope(logits_nV: Tensor, softcap: float) -> Tensor:
    """d(c·tanh(x/c))/dx = 1 − (z/c)², from z = c·tanh(x/c)."""
    return logits_nV.square().mul_(-1.0 / softcap**2).add_(1.0)


def _pieces(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def product_dtype(hidden_ND: Tensor, weight_VD: Tensor) -> torch.dtype:
    """What the head's products are made in: autocast's dtype where it is on, else the operands'; else float32."""
    device_type = hidden_ND.device.type
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    else:
        dtype = torch.promote_types(hidden_ND.dtype, weight_VD.dtype)
    return dtype if dtype in (torch.float16, torch.bfloat16) else torch.float32


class HeadLoss(torch.autograd.Function):
    """(hidden, weight, bias) -> summed loss, and per-position scores that carry no gradient.

    The gradients are made in forward, where the logits are, and wait in float32 without the incoming gradient (a
    normaliser, a GradScaler's factor); backward multiplies by it and may run once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor | None,
        bias_V: Tensor | None,
        head: Head,
        inputs: LossInputs,
        wanted: tuple[bool, bool, bool],
    ) -> tuple[Tensor | None, ...]:
        ctx.scale, ctx.dtypes = head.scale, [None if t is None else t.dtype for t in (hidden_ND, weight_VD, bias_V)]
        if weight_VD is not None:
            dtype = product_dtype(hidden_ND, weight_VD)
            hidden_ND, head = hidden_ND.to(dtype), replace(head, weight_VD=weight_VD.to(dtype), bias_V=bias_V)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            ctx.gradients = HeadGradients.blank(hidden_ND, head, wanted) if any(wanted) else None
            scores = score_chunks(hidden_ND, head, inputs, ctx.gradients)
            loss = scores.weighted_sum(inputs.weights_N, inputs.goal)
        parts = scores.tensors()
        ctx.mark_non_differentiable(*(part for part in parts if part is not None))
        return loss, *parts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError(
                "distillation_loss: its gradients are given out once; call it again for another backward"
            )
        parts = (gradients.hidden_ND, gradients.weight_VD, gradients.bias_V)
        factor = grad_loss * ctx.scale
        scaled = (None if part is None else part.mul_(factor) for part in parts)
        given = (None if part is None else part.to(dtype) for part, dtype in zip(scaled, ctx.dtypes, strict=True))
        return (*given, None, None, None)
