"""The output of a language model: how a hidden state becomes logits.

    logits = softcap · tanh( scale · (h Wᵀ + b) / softcap )        over the first num_effective rows of W

Shapes: **n** positions, **D** model width, **V** effective vocabulary. Capture and training use the same Head, so
teacher and student are normalised over the same ids and in the same precision.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.console import warn_once
from pipeline.models.memory import is_out_of_memory

_CACHED_ROWS = 1024
_UPCAST_ROWS = 8192  # rows of a half-precision W in float32 at once: 64 MiB at D = 2,048


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """Output matrix and what is done to its product; rows from `num_effective` on are padding and never seen.

    `weight_VD` None means that the hidden states are logits already: the way of architectures whose output has
    another form.
    """

    weight_VD: Tensor | None
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    num_effective: int | None = None

    def __post_init__(self) -> None:
        if self.weight_VD is None:
            if self.bias_V is not None or self.scale != 1.0 or self.softcap is not None:
                raise ValueError(
                    "Head: without a weight the hidden states are logits; bias, scale and softcap have no place"
                )
            return
        num_rows = self.weight_VD.shape[0]
        if self.bias_V is not None and self.bias_V.shape != (num_rows,):
            raise ValueError(f"Head: expected a bias of shape ({num_rows},), found {tuple(self.bias_V.shape)}")
        _check_rows(num_rows, self.num_effective)

    @property
    def vocab_size(self) -> int | None:
        """V; None where neither a weight nor `num_effective` says it."""
        if self.num_effective is not None or self.weight_VD is None:
            return self.num_effective
        return self.weight_VD.shape[0]

    def logits_float32(self, hidden_nD: Tensor, room: Tensor | None = None) -> Tensor:
        """[n, D] -> float32 [n, V]; the product itself leaves in float32, for half-precision weights too.

        On CPU the result lies in `room`, float32 [≥ n, V], where one is given: fresh pages cost a tenth of the product.

        Rounding logits to bfloat16 alone costs up to 8e-5 nat of KL and ties the 256th rank in a quarter of rows.
        The result is the caller's own, to be worked on in place; gradients are not recorded, because the training loss
        has a backward of its own.
        """
        with torch.no_grad(), torch.autocast(hidden_nD.device.type, enabled=False):
            if self.weight_VD is None:
                _check_rows(hidden_nD.shape[1], self.num_effective)
                return hidden_nD[:, : self.num_effective].to(torch.float32, copy=True)
            weight_VD = self.weight_VD[: self.num_effective]
            logits_nV = product_float32(hidden_nD, weight_VD, None if room is None else room[: len(hidden_nD)])
            if self.bias_V is not None:
                logits_nV += self.bias_V[: self.num_effective]
            return self.bend_(logits_nV)

    def bend_(self, product_nV: Tensor) -> Tensor:
        """Scale and softcap, in place, of h Wᵀ + b."""
        if self.softcap is None:
            return product_nV.mul_(self.scale) if self.scale != 1.0 else product_nV
        return product_nV.mul_(self.scale / self.softcap).tanh_().mul_(self.softcap)


def product_float32(hidden_nD: Tensor, weight_VD: Tensor, out_nV: Tensor | None = None) -> Tensor:
    """h Wᵀ as float32 [n, V], without a float32 copy of a whole half-precision W; in `out_nV` where it can be."""
    if weight_VD.dtype == torch.float32 or hidden_nD.dtype != weight_VD.dtype:
        return _product_by_blocks(hidden_nD, weight_VD, out_nV)
    if weight_VD.is_cuda and has_wide_product(weight_VD.device, weight_VD.dtype):
        return torch.mm(hidden_nD, weight_VD.T, out_dtype=torch.float32)
    return _product_by_blocks(hidden_nD, weight_VD, out_nV)


@functools.cache
def has_wide_product(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a device multiplies `dtype` into float32; found once by a tiny product, so that the arithmetic is one.

    A later failure of such a product is an error and no reason for another arithmetic in the middle of a shard.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # an error of earlier work is not this product's
    ones = torch.ones(16, 16, dtype=dtype, device=device)
    try:
        torch.mm(ones, ones, out_dtype=torch.float32).cpu()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        warn_once(
            f"{device}: has no product of {str(dtype).removeprefix('torch.')} that leaves in float32; the output "
            "matrix is widened block by block instead, which is slower: " + str(error).partition("\n")[0]
        )
        return False
    return True


def _product_by_blocks(hidden_nD: Tensor, weight_VD: Tensor, out_nV: Tensor | None) -> Tensor:
    hidden_nD = hidden_nD.float()
    if weight_VD.dtype == torch.float32:
        return hidden_nD @ weight_VD.T if out_nV is None else _product_into_(out_nV, hidden_nD, weight_VD)
    logits_nV = hidden_nD.new_empty(hidden_nD.shape[0], weight_VD.shape[0]) if out_nV is None else out_nV
    for start in range(0, weight_VD.shape[0], _UPCAST_ROWS):
        rows = slice(start, start + _UPCAST_ROWS)
        logits_nV[:, rows] = hidden_nD @ weight_VD[rows].float().T
    return logits_nV


def _product_into_(out_nV: Tensor, hidden_nD: Tensor, weight_VD: Tensor) -> Tensor:
    """Blocks of W that stay in a core's cache: 5 to 10 % faster than all of it at once, at D = 576 on CPU."""
    for start in range(0, weight_VD.shape[0], _CACHED_ROWS):
        rows = slice(start, start + _CACHED_ROWS)
        torch.mm(hidden_nD, weight_VD[rows].T, out=out_nV[:, rows])
    return out_nV


def _check_rows(num_rows: int, num_effective: int | None) -> None:
    if num_effective is not None and num_rows < num_effective:
        raise ValueError(
            f"Head: the vocabulary has {num_effective:,} ids and the output matrix only {num_rows:,} rows; this model "
            "and this tokenizer do not belong together"
        )
