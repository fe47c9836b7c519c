"""Ascending ids as differences, in planes of bytes: what a packer finds repeats in.

Letters: **n** positions, **X** ids of each, **P** bytes an id needs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.planes import narrow_from_planes, to_planes


def id_bytes(vocab_size: int) -> int:
    """P: bytes that hold the largest id."""
    return max(1, -(-(vocab_size - 1).bit_length() // 8))


def ids_to_planes(ids_nX: NDArray[np.uint32], vocab_size: int) -> NDArray[np.uint8]:
    """Planes [P, n, X] of the first id of each row and of the steps from one to the next."""
    return to_planes(np.diff(ids_nX, axis=1, prepend=np.uint32(0)), id_bytes(vocab_size))


def ids_from_planes(
    planes_PnX: NDArray[np.uint8], vocab_size: int, out: NDArray[np.uint32] | None = None
) -> NDArray[np.uint32]:
    """The ids again, in `out` where it is given; ValueError where one is outside the vocabulary."""
    differences_nX = narrow_from_planes(planes_PnX)
    # So few of so few bytes cannot overflow 32 bits; others in a bad file could.
    narrow = differences_nX.shape[1] << (8 * len(planes_PnX)) <= 2**32
    if out is None:
        out = np.empty(differences_nX.shape, np.uint32)
    ids_nX = np.cumsum(differences_nX, axis=1, dtype=out.dtype if narrow else np.uint64, out=out if narrow else None)
    if ids_nX.size and int(ids_nX[:, -1].max()) >= vocab_size:
        raise ValueError(f"an id is {int(ids_nX.max())}, outside the vocabulary of {vocab_size}")
    if not narrow:
        out[...] = ids_nX
    return out
