"""Chats: one text from the template, and which of its characters the assistant wrote."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.data.messages import Message

Span = tuple[int, int]
Render = Callable[[Sequence[Message], bool], str]  # messages, add_generation_prompt -> text
_LAST_WORD = re.compile(r"\b\w+\W*\Z")
_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")


def marks_generation(template: str) -> bool:
    """Whether a chat template says itself, by {% generation %} tags, what the assistant writes."""
    return _GENERATION_TAG.search(template) is not None


def spans_by_prefixes(
    messages: Sequence[Message], render: Render, control_tokens: Collection[str] = ()
) -> tuple[str, list[Span]] | None:
    """The rendered chat and the assistant's spans in it, for a template that does not mark them.

    An assistant's message is what stands between the rendering of the messages before it, with the generation prompt,
    and the rendering up to it; from its content on where the prompt holds more than a turn does (a tag that begins the
    reasoning). Some templates write an earlier turn in another way than the last one (without its reasoning, or
    without what ends the whole text); of such a turn the part that stays is scored, with those of the `control_tokens`
    that follow it in both, and a turn of which none is certain has no span. None where no turn of the assistant is
    certain.
    """
    text = render(messages, False)
    spans, num_turns = [], 0
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            num_turns += 1
            try:
                through = render(messages[: number + 1], False)
                start = _where_it_begins(messages[:number], message["content"].strip(), through, render)
            except Exception:  # of a part of a chat: many templates want a first message, or one of the user's
                continue
            if start is not None and text.startswith(through):
                spans.append((start, len(through)))
            elif start is not None and text.startswith(through[:start]):
                alone = through[start:]
                length = _length_of_rewritten(text, start, alone, messages[number:], control_tokens)
                spans += [(start, start + length)] if length else []
    return None if num_turns and not spans else (text, spans)


def _where_it_begins(earlier: Sequence[Message], content: str, through: str, render: Render) -> int | None:
    """Where in the rendering `through` a turn what the assistant wrote begins; None where that is not certain."""
    before = render(earlier, True)
    if through.startswith(before):
        return len(before)
    before = render(earlier, False)
    place = through.find(content, len(before)) if content and through.startswith(before) else -1
    return None if place < 0 else place


def _length_of_rewritten(
    text: str, start: int, alone: str, messages: Sequence[Message], control_tokens: Collection[str]
) -> int:
    """How much of a text, from `start` on, the assistant wrote as the first of `messages`; 0 where that is not certain.

    As the last turn it is rendered as `alone`. What stays of that is its longest end that stands at `start`, if the
    content is in it; else the content itself, if it stands there, and what ends it in both; else that end, if the last
    word of the content is in it (the content holds the reasoning too). What users write later must still follow.
    """
    content = messages[0]["content"].strip()
    stays = _longest_end(alone, text, start)
    if content not in stays:
        last_word = _LAST_WORD.search(content)
        if text.startswith(content, start):
            _, _, after = alone.rpartition(content)
            stays = content + _end_in_both(after, text[start + len(content) :], control_tokens)
        elif last_word is None or last_word[0] not in stays:
            return 0
    place = start + len(stays)
    for message in messages[1:]:
        if message["role"] == "user":
            said = message["content"].strip()
            place = text.find(said, place)
            if place < 0:
                return 0
            place += len(said)
    return len(stays)


def _end_in_both(one: str, other: str, control_tokens: Collection[str]) -> str:
    """The control tokens, with white space between, that both texts begin with; whole ones, so that no part of what
    begins the next turn is taken for the end of this one."""
    if not control_tokens:
        return ""
    named = "|".join(map(re.escape, sorted(control_tokens, key=len, reverse=True)))
    part, end = re.compile(rf"\s*({named})"), 0
    while (found := part.match(one, end)) is not None and other.startswith(found[0], end):
        end = found.end()
    return one[:end]


def _longest_end(part: str, text: str, start: int) -> str:
    """The longest end of `part` that stands in a text at `start`."""
    first, place = text[start : start + 1], 0
    while first and (place := part.find(first, place + 1)) > 0:
        if text.startswith(part[place:], start):
            return part[place:]
    return ""


def tokens_in_spans(
    length: int, spans: Sequence[Span], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """[n]: which tokens, given by the characters they span, share a character with one of `spans`."""
    inside = np.zeros(length, np.int64)
    for start, end in spans:
        inside[start:end] = 1
    before = np.concatenate(([0], np.cumsum(inside)))
    return np.asarray(before[ends] > before[starts], dtype=np.bool_)
