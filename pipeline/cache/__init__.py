"""The cache: records and their codec, shards and seals, the plan that fixes them, and the reader. No torch here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.cache.layout import RecordLayout
    from pipeline.cache.plan import Plan
    from pipeline.cache.records import Records
    from pipeline.cache.seal import Seal
    from pipeline.cache.teacher_cache import TeacherCache

__all__ = ["Plan", "RecordLayout", "Records", "Seal", "TeacherCache"]
_HOMES = {
    "Plan": "plan",
    "RecordLayout": "layout",
    "Records": "records",
    "Seal": "seal",
    "TeacherCache": "teacher_cache",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
