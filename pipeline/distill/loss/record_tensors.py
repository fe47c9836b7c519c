"""Records as torch tensors, on the device where the student learns from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import Records


@dataclass(frozen=True, slots=True, eq=False)
class _RecordFields:
    """What the loss reads of N records. Log-probabilities are nats at temperature 1."""

    layout: RecordLayout
    ids_NK: Tensor
    logprobs_NK: Tensor
    tail_NR: Tensor
    """log Σ_tail p^β; −inf where the tail is empty"""
    draw_ids_NM: Tensor
    draw_logprobs_NM: Tensor
    label_logprobs_N: Tensor
    """log p of the label"""
    entropies_N: Tensor
    """of the teacher at τ = 1"""

    @property
    def vocab_size(self) -> int:
        """V, the teacher's effective vocabulary."""
        return self.layout.vocab_size

    @property
    def betas(self) -> tuple[float, ...]:
        """1/τ of the stored tail masses; R of them."""
        return self.layout.betas

    @property
    def draw_beta(self) -> float:
        """1/τ the draws were made at; one of `betas`."""
        return self.layout.draw_beta


class RecordTensors(_RecordFields):
    """On the device, ready for the loss: ids are int64.

    A head entry with log-probability −inf is padding, and its id repeats the first of its row: a column that belongs
    to the head anyway, so that masking the head's columns stays exact.
    """

    __slots__ = ()

    @classmethod
    def from_records(cls, records: Records, device: torch.device | str) -> Self:
        """The fields the loss needs, on a device."""
        return cls.from_host(HostRecords.from_records(records), torch.device(device))

    @classmethod
    def from_host(cls, host: HostRecords, device: torch.device) -> Self:
        """Move to a device; ids are widened and padding is replaced there."""
        ids_NK = to_device(host.ids_NK, device).long()
        return cls(
            layout=host.layout,
            ids_NK=torch.where(ids_NK < 0, ids_NK[:, :1], ids_NK),
            logprobs_NK=to_device(host.logprobs_NK, device),
            tail_NR=to_device(host.tail_NR, device),
            draw_ids_NM=to_device(host.draw_ids_NM, device).long(),
            draw_logprobs_NM=to_device(host.draw_logprobs_NM, device),
            label_logprobs_N=to_device(host.label_logprobs_N, device),
            entropies_N=to_device(host.entropies_N, device),
        )

    def rows(self, rows: Tensor | slice) -> Self:
        """Some of the positions."""
        return replace(
            self,
            ids_NK=self.ids_NK[rows],
            logprobs_NK=self.logprobs_NK[rows],
            tail_NR=self.tail_NR[rows],
            draw_ids_NM=self.draw_ids_NM[rows],
            draw_logprobs_NM=self.draw_logprobs_NM[rows],
            label_logprobs_N=self.label_logprobs_N[rows],
            entropies_N=self.entropies_N[rows],
        )

    def __len__(self) -> int:
        return len(self.ids_NK)


class HostRecords(_RecordFields):
    """As they wait in host memory: ids in 32 bits, the padding id 2³²−1 as −1."""

    __slots__ = ()

    @classmethod
    def from_records(cls, records: Records, pinned: bool = False) -> Self:
        """Copy what the loss needs; `pinned` memory can travel to a card while the card works."""
        return cls(
            layout=records.layout,
            ids_NK=on_host(records.ids_TK.view(np.int32), pinned),
            logprobs_NK=on_host(records.logprobs_TK, pinned),
            tail_NR=on_host(records.tail_TR, pinned),
            draw_ids_NM=on_host(records.draw_ids_TM.view(np.int32), pinned),
            draw_logprobs_NM=on_host(records.draw_logprobs_TM, pinned),
            label_logprobs_N=on_host(records.label_logprobs_T, pinned),
            entropies_N=on_host(records.entropies_T, pinned),
        )


def on_host(values: NDArray[Any], pinned: bool) -> Tensor:
    """A copy as a CPU tensor."""
    return torch.from_numpy(values).pin_memory() if pinned else torch.tensor(values)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; from pinned memory the copy does not wait for the card."""
    return tensor.to(device, non_blocking=tensor.is_pinned()) if device.type == "cuda" else tensor.to(device)
