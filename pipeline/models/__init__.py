"""Teacher and student: loading them, their output as a Head, and turning a teacher's logits into records.

The names below load torch only when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.lazy_names import lazy_names

if TYPE_CHECKING:
    from pipeline.models.causal import CausalModel
    from pipeline.models.head import Head
    from pipeline.models.teacher import Teacher

__all__ = ["CausalModel", "Head", "Teacher"]
_HOMES = {
    "CausalModel": "causal",
    "Head": "head",
    "Teacher": "teacher",
}

__getattr__ = lazy_names(__name__, _HOMES)
