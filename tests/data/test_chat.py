"""Where the assistant speaks in a rendered chat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.data.chat import marks_generation, spans_by_prefixes, tokens_in_spans
from pipeline.data.messages import Message


def render(messages: Sequence[Message], prompt: bool) -> str:
    text = "".join(f"[{message['role']}]{message['content']}." for message in messages)
    return text + "[assistant]" * prompt


def chat(*turns: str) -> list[Message]:
    return [{"role": "user" if turn[0] == "u" else "assistant", "content": turn[1:]} for turn in turns]


def test_spans_hold_the_content_and_its_end() -> None:
    found = spans_by_prefixes(chat("uhi", "ayes", "uand", "a"), render)
    assert found is not None
    text, spans = found
    assert [text[start:end] for start, end in spans] == ["yes.", "."]


def test_a_chat_without_the_assistant_has_no_span() -> None:
    assert spans_by_prefixes(chat("uhi"), render) == ("[user]hi.", [])


def test_a_renderer_that_looks_ahead_is_found_out() -> None:
    def counting(messages: Sequence[Message], prompt: bool) -> str:
        return f"{len(messages)} messages:" + render(messages, prompt)

    assert spans_by_prefixes(chat("uhi", "ayes"), counting) is None


@pytest.mark.parametrize(
    ("template", "marked"),
    [("{% generation %}", True), ("{%- generation -%}", True), ("{% if add_generation_prompt %}", False), ("", False)],
)
def test_marks_generation(template: str, marked: bool) -> None:
    assert marks_generation(template) is marked


def test_a_token_counts_if_it_shares_a_character_with_a_span() -> None:
    starts, ends = np.array([0, 2, 3, 5, 5, 8]), np.array([2, 4, 5, 5, 8, 9])
    assert tokens_in_spans(10, [(3, 6)], starts, ends).tolist() == [False, True, True, False, True, False]
    assert not tokens_in_spans(0, [], np.zeros(1, np.int64), np.zeros(1, np.int64)).any()
