"""Which of PyTorch's attention kernels a model can use on a card.

Where no row of a batch has a second document, transformers passes no mask and lets PyTorch share each key head among
several query heads (`enable_gqa`). On CUDA only flash attention and cuDNN's, which need half precision and compute
capability 8.0, know that, and the plain kernel, which holds all T² scores of every head in float32. So on a T4 or a
P100, and in float32 on any card, such a batch would take many times the memory, and far longer, than one with a mask.
With keys and values repeated beforehand the memory-efficient kernel does it, which every card has.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.integrations import sdpa_attention

_FLASH_SINCE = (8, 0)
_FLASH_DTYPES = (torch.float16, torch.bfloat16)
_shares_in_transformers = sdpa_attention.use_gqa_in_sdpa


def keep_fused_attention(device: torch.device) -> None:
    """From here on in this process models share key heads within PyTorch's attention only where a fused kernel of this
    card does; on a CPU nothing changes."""
    if device.type == "cuda":
        has_flash = torch.cuda.get_device_capability(device) >= _FLASH_SINCE
        sdpa_attention.use_gqa_in_sdpa = partial(_shares, has_flash)


def _shares(has_flash: bool, attention_mask: Tensor | None, key: Tensor, *others: Any) -> bool:
    """In place of transformers' own function, which is given the values too from some version on.

    Under autocast keys come from their rotation in float32, and go into the attention in half precision.
    """
    halved = key.dtype in _FLASH_DTYPES or torch.is_autocast_enabled(key.device.type)
    return has_flash and halved and bool(_shares_in_transformers(attention_mask, key, *others))
