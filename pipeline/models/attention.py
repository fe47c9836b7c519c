"""Which of PyTorch's attention kernels a model can use on a card.

Where no row of a batch has a second document, transformers passes no mask and lets PyTorch share each key head among
several query heads (`enable_gqa`). On CUDA only two kernels know that: flash attention, which needs compute capability
8.0, and the plain one, which holds all T² scores of every head in float32. So on a T4 or a P100 such a batch would take
many times the memory, and far longer, than one with a mask. With keys and values repeated beforehand the
memory-efficient kernel does it, which every card has.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.integrations import sdpa_attention

_FLASH_SINCE = (8, 0)


def keep_fused_attention(device: torch.device) -> None:
    """From here on in this process no model shares key heads within PyTorch's attention, where the card is too old."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _FLASH_SINCE:
        sdpa_attention.use_gqa_in_sdpa = _repeat_instead


def _repeat_instead(*_: Any, **__: Any) -> bool:
    return False
