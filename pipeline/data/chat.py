"""Chats: one text from the template, and which of its characters the assistant wrote."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.data.messages import Message

Span = tuple[int, int]
Render = Callable[[Sequence[Message], bool], str]  # messages, add_generation_prompt -> text
_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")


def marks_generation(template: str) -> bool:
    """Whether a chat template says itself, by {% generation %} tags, what the assistant writes."""
    return _GENERATION_TAG.search(template) is not None


def spans_by_prefixes(messages: Sequence[Message], render: Render) -> tuple[str, list[Span]] | None:
    """The rendered chat and the assistant's spans in it, for a template that does not mark them.

    An assistant's message is what stands between the rendering of the messages before it, with the generation prompt,
    and the rendering up to it. None where a template does not render a longer chat as a continuation of a shorter one
    (some rewrite earlier turns).
    """
    text = render(messages, False)
    spans = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            before = render(messages[:number], True)
            through = render(messages[: number + 1], False)
            if not through.startswith(before) or not text.startswith(through):
                return None
            spans.append((len(before), len(through)))
    return text, spans


def tokens_in_spans(
    length: int, spans: Sequence[Span], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """[n]: which tokens, given by the characters they span, share a character with one of `spans`."""
    inside = np.zeros(length, np.int64)
    for start, end in spans:
        inside[start:end] = 1
    before = np.concatenate(([0], np.cumsum(inside)))
    return np.asarray(before[ends] > before[starts], dtype=np.bool_)
