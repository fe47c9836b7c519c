"""The chat template of a tokenizer: a chat as one text, and which of its characters the assistant wrote."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from pipeline.data.chat import Span, marks_generation, spans_by_prefixes
from pipeline.data.documents import Document, Unreadable
from pipeline.data.messages import Message, Tool
from pipeline.errors import ConfigError, first_line

DAY = datetime(2024, 7, 26)  # for templates that write today's date; Llama 3.2's own, where it is given none
_TODAY = re.compile(r"""\bstrftime_now\(\s*(["'])(.*?)\1\s*\)""")


class ChatTemplate:
    """Renders chats; every field of a message, and the tools of a chat, are given to the template.

    A template that asks for today's date is given one that stays, so that a chat is the same text on every day.
    """

    def __init__(self, fast: Any, name: str, render_template: Callable[..., Any]) -> None:
        """`render_template` is the library's own, of the same version as the tokenizer `fast`."""
        self._fast, self._name, self._render_template = fast, name, render_template

    def render(self, document: Document) -> tuple[str, list[Span], int] | Unreadable:
        """The text of a chat, the assistant's spans in it and how many turns have none, or why there is no text."""
        template = self._template(document.tools)
        messages, tools = document.messages or (), document.tools
        try:
            if marks_generation(template):
                return *self._render(template, messages, tools, False, mark=True), 0
            found = spans_by_prefixes(
                messages,
                lambda part, prompt: self._render(template, part, tools, prompt)[0],
                [str(token) for token in self._fast.added_tokens_decoder.values()],
            )
        except Exception as error:  # a template is a program: it can fail like any other, on some chats only
            return Unreadable(document.key, f"the chat template refuses it: {first_line(error)}")
        if found is None:
            return Unreadable(
                document.key,
                "the chat template does not show what the assistant wrote; put it between {% generation %} and "
                "{% endgeneration %} there",
            )
        return *found, sum(message["role"] == "assistant" for message in messages) - len(found[1])

    def _template(self, tools: Sequence[Tool] | None) -> str:
        known = self._fast.chat_template
        if known is None:
            raise ConfigError(
                f"tokenizer {self._name}: has no chat template, and data.messages_column asks for chats. Use the "
                "tokenizer of a chat model, add a chat_template.jinja to its folder, or set data.text_column."
            )
        if isinstance(known, dict) and "default" not in known:
            raise ConfigError(
                f"tokenizer {self._name}: expected one chat template, or one that is named default, found only "
                f"{', '.join(sorted(known))}. Name one of them default in the tokenizer's folder (chat_template.jinja)."
            )
        return with_fixed_day(self._fast.get_chat_template(tools=None if tools is None else list(tools)))

    def _render(
        self,
        template: str,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None,
        prompt: bool,
        mark: bool = False,
    ) -> tuple[str, list[Span]]:
        texts, spans = self._render_template(
            conversations=[list(messages)],
            tools=None if tools is None else list(tools),
            chat_template=template,
            return_assistant_tokens_mask=mark,
            add_generation_prompt=prompt,
            **self._fast.special_tokens_map,
        )
        return texts[0], [(start, end) for start, end in spans[0]] if mark else []


def with_fixed_day(template: str) -> str:
    """A template with DAY where it asks for today in a given form: `strftime_now("%d %b %Y")`."""
    return _TODAY.sub(lambda call: f"{call[1]}{DAY.strftime(call[2])}{call[1]}", template)
