"""What the arrays of a shard file must look like, known before a byte is read: nothing in it is taken on trust."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Packing = Literal["zstd", "slow-zstd", "fast-zstd", "blocks", "bitshuffle"]
"""zstd: searches long for repeats; slow-zstd: longer; fast-zstd: for bytes that repeat little; blocks: bytes in
blocks, each packed for itself; bitshuffle: bit planes first, for numbers of similar size"""

ZSTD_LEVELS: dict[Packing, int] = {"fast-zstd": 1, "zstd": 9, "slow-zstd": 17}


@dataclass(frozen=True, slots=True)
class ArraySchema:
    """Name, type, shape and packing of one array; it is cut into chunks along its first axis."""

    name: str
    dtype: Literal["uint8", "uint16", "uint32", "int32", "int64"]
    shape: tuple[int, ...]
    packing: Packing
    chunk_rows: int = 1
    block_bytes: int = 0
    """of `blocks`"""

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of every chunk; the last one is filled up with zeros."""
        return (self.chunk_rows, *self.shape[1:])

    @property
    def num_chunks(self) -> int:
        """Chunks along the first axis."""
        return -(-self.shape[0] // self.chunk_rows)

    @property
    def item_bytes(self) -> int:
        """Bytes of one number."""
        return np.dtype(self.dtype).itemsize

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk before it is packed."""
        return math.prod(self.chunk_shape) * self.item_bytes

    def check_rows(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return `rows`, or raise ValueError where they are not rows of this array."""
        if rows.dtype != np.dtype(self.dtype) or rows.shape[1:] != self.shape[1:]:
            expected = f"{self.dtype} [*, {', '.join(map(str, self.shape[1:]))}]"
            raise ValueError(f"array {self.name!r}: expected {expected}, found {rows.dtype} {list(rows.shape)}")
        return rows


Facts = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Log p of the label and entropy of the teacher, a number a position each"""
Arrays = Mapping[str, NDArray[Any]]
