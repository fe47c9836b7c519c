"""Learning from the cache: the loss over the output matrix, its schedules, the order of the data, and checkpoints."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.distill.losses import LossParts, distillation_loss
    from pipeline.distill.record_tensors import RecordTensors

__all__ = ["LossParts", "RecordTensors", "distillation_loss"]
_HOMES = {"LossParts": "losses", "RecordTensors": "record_tensors", "distillation_loss": "losses"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
