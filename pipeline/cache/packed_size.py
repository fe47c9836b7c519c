"""How large a packed chunk says it is once unpacked, read from its header so that memory is bounded beforehand.

Blosc 1: bytes 4 to 8 of the header; bytes 12 to 16 are how many are packed, and its unpacker trusts them: it would read
on behind a chunk that is shorter. Zstandard: the frame content size of RFC 8878, section 3.1.1.1.
"""

from __future__ import annotations

import struct

from pipeline.cache.schema import ZSTD_LEVELS, Packing

_ZSTD_MAGIC = 0xFD2FB528


def packed_size(packing: Packing, packed: bytes) -> int:
    """Bytes a chunk unpacks to; ValueError where it is none that this packing gives, or is not as long as it says."""
    return _zstd_size(packed[:18]) if packing in ZSTD_LEVELS else _blosc_size(packed)


def _blosc_size(packed: bytes) -> int:
    if len(packed) < 16:
        raise ValueError("a chunk is too short to be packed by blosc")
    size, _, packed_bytes = struct.unpack_from("<III", packed, 4)
    if packed_bytes != len(packed):
        raise ValueError(f"a chunk says that it has {packed_bytes:,} bytes, and has {len(packed):,}")
    return int(size)


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
