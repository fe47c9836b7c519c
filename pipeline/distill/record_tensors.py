"""Records as torch tensors, on the device where the student learns from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cache.records import Records


@dataclass(frozen=True, slots=True, eq=False)
class RecordTensors:
    """What the loss reads of N records. Log-probabilities are nats at temperature 1.

    A head entry with log-probability −inf is padding, and its id repeats the first of its row: a column that belongs
    to the head anyway, so that masking the head's columns stays exact.
    """

    vocab_size: int
    betas: tuple[float, ...]
    """1/τ of the stored tail masses; R of them"""
    draw_beta: float
    """1/τ the draws were made at; one of `betas`"""
    ids_NK: Tensor
    """int64"""
    logprobs_NK: Tensor
    tail_NR: Tensor
    """log Σ_tail p^β; −inf where the tail is empty"""
    draw_ids_NM: Tensor
    """int64"""
    draw_logprobs_NM: Tensor

    @classmethod
    def from_records(cls, records: Records, device: torch.device | str) -> Self:
        """Copy the fields the loss needs; ids travel as 32 bits and are widened on the device."""
        ids_NK = _widened(records.ids_TK, device)
        return cls(
            vocab_size=records.layout.vocab_size,
            betas=records.layout.betas,
            draw_beta=records.layout.draw_beta,
            ids_NK=torch.where(ids_NK < 0, ids_NK[:, :1], ids_NK),
            logprobs_NK=_on_device(records.logprobs_TK, device),
            tail_NR=_on_device(records.tail_TR, device),
            draw_ids_NM=_widened(records.draw_ids_TM, device),
            draw_logprobs_NM=_on_device(records.draw_logprobs_TM, device),
        )

    def __len__(self) -> int:
        return len(self.ids_NK)


def _widened(ids: NDArray[np.uint32], device: torch.device | str) -> Tensor:
    """Ids as int64; the padding id 2³²−1 becomes −1."""
    return _on_device(ids.view(np.int32), device).long()


def _on_device(values: NDArray[Any], device: torch.device | str) -> Tensor:
    return torch.tensor(values, device=device)
