"""Where the assistant speaks in a rendered chat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.data.chat import Render, marks_generation, spans_by_prefixes, tokens_in_spans
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


def test_a_turn_before_which_nothing_can_be_rendered_is_not_scored() -> None:
    """Many templates read the first message's role, or want a user's before the assistant's."""

    def reading_the_first(messages: Sequence[Message], prompt: bool) -> str:
        assert messages[0]["role"]
        return render(messages, prompt)

    assert turns_of(chat("ahello", "uhi", "ayes"), reading_the_first) == ["yes."]
    assert turns_of(chat("ahello"), reading_the_first) is None
    with pytest.raises(IndexError):
        turns_of([], reading_the_first)


def test_a_prompt_that_holds_more_than_a_turn_does() -> None:
    """As one that begins the reasoning, which no earlier turn has: what was written begins with the content."""

    def thinking(messages: Sequence[Message], prompt: bool) -> str:
        return render(messages, prompt) + "<think>" * prompt

    assert turns_of(chat("uhi", "ayes", "uand", "ano"), thinking) == ["yes.", "no."]
    assert turns_of(chat("uhi", "a"), thinking) is None


def test_a_chat_without_the_assistant_has_no_span() -> None:
    assert spans_by_prefixes(chat("uhi"), render) == ("[user]hi.", [])


def test_a_renderer_that_looks_ahead_is_found_out() -> None:
    def counting(messages: Sequence[Message], prompt: bool) -> str:
        return f"{len(messages)} messages:" + render(messages, prompt)

    assert spans_by_prefixes(chat("uhi", "ayes"), counting) is None


def turns_of(messages: Sequence[Message], rewriting: Render) -> list[str] | None:
    found = spans_by_prefixes(messages, rewriting)
    return None if found is None else [found[0][start:end] for start, end in found[1]]


def test_of_a_turn_that_ends_in_another_way_the_content_is_certain() -> None:
    def ended(messages: Sequence[Message], prompt: bool) -> str:
        return render(messages, prompt) + "<end>" * (not prompt and messages[-1]["role"] == "assistant")

    assert turns_of(chat("uhi", "ayes", "uand", "ano"), ended) == ["yes", "no.<end>"]


def test_what_ends_an_earlier_turn_counts_where_the_text_ends_with_more() -> None:
    """As Phi's: <|end|> after every turn, and <|endoftext|> after the last one."""

    def ending(messages: Sequence[Message], prompt: bool) -> str:
        turns = "".join(f"<|{message['role']}|>\n{message['content']}<|end|>\n" for message in messages)
        return turns + ("<|assistant|>\n" if prompt else "<|endoftext|>")

    controls = ("<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>", "<|end")
    messages = chat("uhi", "ayes", "uand", "ano")
    found = spans_by_prefixes(messages, ending, controls)
    assert found is not None
    assert [found[0][start:end] for start, end in found[1]] == ["yes<|end|>", "no<|end|>\n<|endoftext|>"]
    assert turns_of(messages, ending) == ["yes", "no<|end|>\n<|endoftext|>"], "without knowing which they are"


def test_a_turn_that_is_rewritten_beyond_recognition_is_not_scored() -> None:
    def shouting(messages: Sequence[Message], prompt: bool) -> str:
        earlier = [
            message | {"content": message["content"].upper()} if message["role"] == "assistant" else message
            for message in messages[:-1]
        ]
        return render([*earlier, *messages[-1:]], prompt)

    assert turns_of(chat("uhi", "ayes", "uand", "ano"), shouting) == ["no."]
    assert turns_of(chat("uhi", "ayes", "uand"), shouting) is None


def test_what_a_user_wrote_is_never_taken_for_the_assistants() -> None:
    def forgetting(messages: Sequence[Message], prompt: bool) -> str:
        """Without headers, and without earlier turns of the assistant: users may have said the same."""
        last = len(messages) - 1
        return "".join(
            f"{'' if message['role'] == 'user' else '<think/>'}{message['content']}."
            for number, message in enumerate(messages)
            if message["role"] == "user" or number == last
        )

    assert turns_of(chat("uhi", "ayes", "uyes"), forgetting) is None
    assert turns_of(chat("uhi", "ayes", "uyes", "ano"), forgetting) == ["<think/>no."]


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
