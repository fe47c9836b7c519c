"""Integers as planes of bytes: all lowest bytes first, then all second ones, and so on.

A plane holds numbers of one kind, so a general packer finds their distribution; the planes of high bytes are nearly
all zeros and pack to nearly nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_planes(values: NDArray[np.uint16] | NDArray[np.uint32], num_planes: int) -> NDArray[np.uint8]:
    """[P, ...] bytes of unsigned numbers, the lowest first; ValueError where one needs more than P bytes."""
    if num_planes < 4 and values.size and int(values.max()) >> (8 * num_planes):
        raise ValueError(f"planes: {int(values.max())} does not fit in {num_planes} bytes")
    return np.stack([(values >> np.uint32(8 * plane)).astype(np.uint8) for plane in range(num_planes)])


def from_planes(planes: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The numbers whose bytes `to_planes` took apart."""
    values: NDArray[np.uint32] = planes[0].astype(np.uint32)
    for number, plane in enumerate(planes[1:], start=1):
        if plane.any():
            values |= plane.astype(np.uint32) << np.uint32(8 * number)
    return values


def narrow_from_planes(planes: NDArray[np.uint8]) -> NDArray[np.uint16] | NDArray[np.uint32]:
    """The same numbers in 16 bits where two planes hold them: half the memory to fill."""
    if len(planes) != 2:
        return from_planes(planes)
    values: NDArray[np.uint16] = planes[1].astype(np.uint16)
    values <<= np.uint16(8)
    values |= planes[0]
    return values


def zigzag(values: NDArray[np.int32]) -> NDArray[np.uint32]:
    """0, −1, 1, −2, ... as 0, 1, 2, 3, ...: numbers near zero of either sign have empty high bytes."""
    return ((values << 1) ^ (values >> 31)).view(np.uint32)


def from_zigzag(values: NDArray[np.uint32]) -> NDArray[np.int32]:
    """The inverse of `zigzag`."""
    return (values >> np.uint32(1)).view(np.int32) ^ -(values & np.uint32(1)).view(np.int32)
