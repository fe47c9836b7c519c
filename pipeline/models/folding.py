"""A vocabulary folded into columns, so that a search over all ids becomes two short ones.

Ids are laid out in rows of C: id = row · C + column. Reducing over the rows runs along contiguous memory; a search
then looks at the C reduced values, and after that only inside the columns it chose. With C near √(V·k) both halves
of a search for k ids are as short as they can be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Folding:
    """V ids in C columns of at most G = ⌈V/C⌉; the last row may be short."""

    vocab_size: int
    num_columns: int

    @classmethod
    def for_search(cls, vocab_size: int, num_wanted: int) -> Folding:
        """Columns for finding `num_wanted` ids: at least that many columns."""
        return cls(vocab_size, min(vocab_size, max(num_wanted, math.isqrt(vocab_size * num_wanted))))

    @property
    def num_full_rows(self) -> int:
        """Rows that reach every column."""
        return self.vocab_size // self.num_columns

    def largest(self, values_nV: Tensor) -> Tensor:
        """The largest value of each column, [n, C]."""
        whole_nGC, rest_nX = self._parts(values_nV)
        found_nC = whole_nGC.amax(dim=1)
        torch.maximum(found_nC[:, : rest_nX.shape[1]], rest_nX, out=found_nC[:, : rest_nX.shape[1]])
        return found_nC

    def sums(self, values_nV: Tensor) -> Tensor:
        """The sum of each column, [n, C]."""
        whole_nGC, rest_nX = self._parts(values_nV)
        found_nC = whole_nGC.sum(dim=1)
        found_nC[:, : rest_nX.shape[1]] += rest_nX
        return found_nC

    def ids_in(self, columns_nB: Tensor) -> tuple[Tensor, Tensor]:
        """Ids of the chosen columns, [n, B, G], and which of them exist; the others are clamped to the last id."""
        num_rows = -(-self.vocab_size // self.num_columns)
        steps_G = torch.arange(num_rows, device=columns_nB.device) * self.num_columns
        ids_nBG = columns_nB.unsqueeze(-1) + steps_G
        exists_nBG = ids_nBG < self.vocab_size
        return ids_nBG.clamp_(max=self.vocab_size - 1), exists_nBG

    def _parts(self, values_nV: Tensor) -> tuple[Tensor, Tensor]:
        """The full rows as [n, G, C], and the short one."""
        reach = self.num_full_rows * self.num_columns
        whole_nGC = values_nV[:, :reach].view(-1, self.num_full_rows, self.num_columns)
        return whole_nGC, values_nV[:, reach:]
