"""How large a packed chunk says it is once unpacked, read from its header so that memory is bounded beforehand.

Blosc 1: bytes 4 to 8 of the header. Zstandard: the frame content size of RFC 8878, section 3.1.1.1.
"""

from __future__ import annotations

import struct

from pipeline.cache.schema import ZSTD_LEVELS, Packing

_ZSTD_MAGIC = 0xFD2FB528


def packed_size(packing: Packing, start: bytes) -> int:
    """Bytes a chunk unpacks to, by its first 18 bytes or more; ValueError where they are not the start of one."""
    return _zstd_size(start) if packing in ZSTD_LEVELS else _blosc_size(start)


def _blosc_size(start: bytes) -> int:
    if len(start) < 16:
        raise ValueError("a chunk is too short to be packed by blosc")
    size: int = struct.unpack_from("<I", start, 4)[0]
    return size


def _zstd_size(start: bytes) -> int:
    if len(start) < 6 or struct.unpack_from("<I", start)[0] != _ZSTD_MAGIC:
        raise ValueError("a chunk is not packed by zstd")
    descriptor = start[4]
    size_flag, one_segment, dictionary_flag = descriptor >> 6, descriptor >> 5 & 1, descriptor & 3
    if dictionary_flag or (size_flag == 0 and not one_segment):
        raise ValueError("a chunk does not say its size")
    width = (1, 2, 4, 8)[size_flag]
    offset = 5 + (0 if one_segment else 1)
    if len(start) < offset + width:
        raise ValueError("a chunk is cut short")
    return int.from_bytes(start[offset : offset + width], "little") + (256 if width == 2 else 0)
