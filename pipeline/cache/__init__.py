"""The cache: records and their codec, shards and seals, the plan that fixes them, and the reader. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.lazy_names import lazy_names

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

__getattr__ = lazy_names(__name__, _HOMES)
