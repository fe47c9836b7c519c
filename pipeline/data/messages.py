"""Chat messages and tools as a row holds them: JSON, checked before a template sees them.

Beside a role and a content that is text, three usual spellings are read: a content in parts of text, no content beside
tool calls, and ShareGPT's `from` and `value`.
"""

from __future__ import annotations

import json
from typing import Any

Message = dict[str, Any]  # "role" and "content", which are strings, and whatever else the chat template may read
Tool = dict[str, Any]
_NO_MESSAGES = "is not a list of messages with a role and a content"
_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}  # of ShareGPT's speakers


def as_messages(value: Any) -> tuple[Message, ...] | str:
    """The messages of a chat with all their fields, or what is wrong with them."""
    if not isinstance(value, list):
        return _NO_MESSAGES
    messages = []
    for entry in value:
        message = _as_message(entry)
        if isinstance(message, str):
            return message
        messages.append(message)
    return tuple(messages) if is_json(messages) else "has messages with a field that is not JSON"


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


def _as_message(entry: Any) -> Message | str:
    """A message whose role and content are text, or what is wrong with it."""
    if not isinstance(entry, dict):
        return _NO_MESSAGES
    if "role" not in entry and isinstance(entry.get("from"), str):
        if entry["from"] not in _ROLES:
            return f"has a message from another speaker than {', '.join(_ROLES)}, and no role"
        others = {name: part for name, part in entry.items() if name not in ("from", "value")}
        entry = {"role": _ROLES[entry["from"]], "content": entry.get("value")} | others
    content = entry.get("content")
    if content is None and entry.get("tool_calls"):
        content = ""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        if other := [part for part in content if part.get("type") != "text" or not isinstance(part.get("text"), str)]:
            return f"has a message with a part of type {str(other[0].get('type'))[:40]!r}, where only text is read"
        content = "".join(part["text"] for part in content)
    if not isinstance(entry.get("role"), str) or not isinstance(content, str):
        return _NO_MESSAGES
    return {**entry, "content": content}
