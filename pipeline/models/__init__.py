"""Teacher and student: loading them, their output as a Head, and turning a teacher's logits into records.

The names below load torch only when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.models.causal import CausalModel
    from pipeline.models.head import Head
    from pipeline.models.teacher import Teacher

__all__ = ["CausalModel", "Head", "Teacher"]

_HOMES = {
    "CausalModel": "pipeline.models.causal",
    "Head": "pipeline.models.head",
    "Teacher": "pipeline.models.teacher",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
