"""Chat messages and tools as a row holds them: JSON, checked before a template sees them."""

from __future__ import annotations

import json
from typing import Any

Message = dict[str, Any]  # "role" and "content", which are strings, and whatever else the chat template may read
Tool = dict[str, Any]


def as_messages(value: Any) -> tuple[Message, ...] | str:
    """The messages of a chat with all their fields, or what is wrong with them."""
    if not isinstance(value, list) or not all(_has_role_and_content(entry) for entry in value):
        return "is not a list of messages with a role and a content"
    if not is_json(value):
        return "has messages with a field that is not JSON"
    return tuple(value)


def as_tools(value: Any) -> tuple[Tool, ...] | None:
    """The tools of a chat, given as a list of JSON objects or as its JSON text; None where they are neither."""
    if value is None:
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else []
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value) or not is_json(value):
        return None
    return tuple(value)


def other_fields(message: Message) -> list[str]:
    """Names of what a message holds beside its role and content."""
    return [name for name in message if name not in ("role", "content")]


def is_json(value: Any) -> bool:
    """Whether a value can be written as JSON: no dates, no bytes, no infinity."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _has_role_and_content(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("role"), str) and isinstance(entry.get("content"), str)
