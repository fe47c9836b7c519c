"""Where a student's lessons came from, for its model card: told by the plan of the cache, which cannot be mistaken."""

from __future__ import annotations

from typing import Any

from pipeline.cache.plan import Plan
from pipeline.console import format_bytes

_SHOWN_DIGITS = 16


def origin_facts(plan: Plan, teacher_name: str) -> dict[str, str]:
    """Rows on teacher, data and cache; `teacher_name` is only what the config calls the teacher now."""
    return {
        "teacher": f"{_weights(plan.identity['teacher'])}; the config calls it {teacher_name}",
        "data": f"{_source(plan.identity)}; {plan.num_sequences:,} sequences of {plan.sequence_length:,} positions",
        "cache": f"plan {plan.hash[:_SHOWN_DIGITS]}",
    }


def _weights(teacher: dict[str, Any]) -> str:
    parts = [f"{name} {part['sha256'][:_SHOWN_DIGITS]}" for name, part in sorted(teacher["files"].items())]
    more = f" and {len(parts) - 1} more files" if len(parts) > 1 else ""
    return f"weights of SHA-256 {parts[0] if parts else 'not told'}{more}"


def _source(identity: dict[str, Any]) -> str:
    source, found = identity["settings"]["data.source"], identity["source"]
    if "dataset" in found:
        subset = f", {found['subset']}" if found.get("subset") else ""
        return f"{source}: {found['dataset']}{subset}, split {found.get('split', 'train')} at {found['revision']}"
    python = f" of Python {found['python']}" if "python" in found else ""
    return f"{source}{python}, {found['num_files']:,} files of {format_bytes(found['num_bytes'])}"
