"""Chats with more than roles and contents: every field reaches the chat template, or is counted."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers

from pipeline.data.documents import Document, TokenizedDocument, Unreadable, read_documents
from pipeline.data.messages import as_messages, as_tools
from pipeline.data.preparation import prepare_sequences
from pipeline.data.settings import DataSettings
from pipeline.data.tokenizer import Tokenizer
from pipeline.errors import ConfigError
from tests.data import builders

TEMPLATE = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.name or m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% if m.tool_calls is defined %}{{ m.tool_calls | tojson }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALL = [{"type": "function", "function": {"name": "weather", "arguments": {"place": "Kyiv"}}}]
CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": "Rain?", "name": "Ana"},
    {"role": "assistant", "content": "", "reasoning_content": "ask", "tool_calls": CALL},
    {"role": "tool", "content": "no"},
    {"role": "assistant", "content": "No rain."},
]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"place": {"type": "string"}}}}]


def settings_for(path: Path, source: str = "jsonl") -> DataSettings:
    return DataSettings(source=source, path=str(path), messages_column="chat", sequence_length=64)  # type: ignore[arg-type]


def read(path: Path, source: str = "jsonl") -> list[Document | Unreadable]:
    return list(read_documents(settings_for(path, source)))


def load(folder: Path, template: Any) -> Tokenizer:
    return Tokenizer.load(builders.save(builders.byte_level(), folder, template))


def test_every_field_and_the_tools_reach_the_template(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, TEMPLATE)
    (encoded,) = tokenizer.encode([Document("key", "", tuple(CHAT), tuple(TOOLS))])
    assert isinstance(encoded, TokenizedDocument)
    reference = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    rendered = reference.apply_chat_template(CHAT, tools=TOOLS, tokenize=False)
    assert tokenizer.decode(encoded.ids[:-1]) == rendered
    said = tokenizer.decode(encoded.ids[encoded.scored])
    assert said.startswith("<think>ask</think>[{")
    assert said.endswith("<|im_end|>\nNo rain.<|im_end|>\n")


def test_the_report_names_what_the_template_was_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"chat": [*CHAT, {"role": "user", "content": str(number)}], "tools": tools}
        for number, tools in enumerate([TOOLS, None, "", "call me"])
    ]
    path = builders.write_lines(tmp_path / "chats.jsonl", rows)
    _, report = prepare_sequences(settings_for(path), load(tmp_path / "tokenizer", TEMPLATE), "packed")
    assert (report.documents_kept, report.num_chats) == (4, 4)
    assert report.message_fields == {"name": 4, "reasoning_content": 4, "tool_calls": 4, "tools": 1}
    lines = report.summary_lines()
    names = "name (4), reasoning_content (4), tool_calls (4), tools (1)"
    assert f"given to the chat template beside roles and contents: {names}" in lines
    assert "not used: column 'tools' of 1 chats, which is not a list of JSON objects" in lines
    assert "column 'tools' of 1 chats is not used" in capsys.readouterr().err


def test_characters_and_bytes_of_chats_are_those_of_the_rendered_text(tmp_path: Path) -> None:
    chats = [[{"role": "user", "content": f"größe {n}"}, {"role": "assistant", "content": "ja"}] for n in range(2)]
    path = builders.write_lines(tmp_path / "chats.jsonl", [{"chat": chat} for chat in chats])
    _, report = prepare_sequences(settings_for(path), load(tmp_path / "tokenizer", builders.PLAIN_TEMPLATE), "packed")
    reference = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "tokenizer"))
    rendered = "".join(reference.apply_chat_template(chat, tokenize=False) for chat in chats)
    assert (report.num_characters, report.num_bytes) == (len(rendered), len(rendered.encode()))
    assert any(line.startswith("chats, as the template renders them: ") for line in report.summary_lines())


def test_parquet_and_json_lines_give_the_same_fields(tmp_path: Path) -> None:
    rows = [{"chat": CHAT, "tools": TOOLS}, {"chat": CHAT[:1] + CHAT[3:], "tools": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    lines = read(builders.write_lines(tmp_path / "rows.jsonl", rows))
    table = read(tmp_path / "rows.parquet", "parquet")
    assert [(d.messages, d.tools) for d in table] == [(d.messages, d.tools) for d in lines]  # type: ignore[union-attr]
    builders.write_lines(tmp_path / "dataset" / "train.jsonl", rows)
    hub = DataSettings(source="hub", dataset=str(tmp_path / "dataset"), messages_column="chat")
    assert [(d.messages, d.tools) for d in read_documents(hub)] == [(d.messages, d.tools) for d in lines]  # type: ignore[union-attr]


def test_a_turn_that_only_calls_tools_has_no_content(tmp_path: Path) -> None:
    turns = [CHAT[0], *({**CHAT[1], "content": content} for content in (None, [])), CHAT[3]]
    without = {name: value for name, value in CHAT[1].items() if name != "content"}
    (document,) = read(builders.write_lines(tmp_path / "a.jsonl", [{"chat": [*turns, without]}]))
    assert isinstance(document, Document)
    assert document.messages == (CHAT[0], CHAT[1], CHAT[1], CHAT[3], CHAT[1])
    (document,) = read(builders.write_lines(tmp_path / "b.jsonl", [{"chat": [*CHAT, {**CHAT[3], "content": None}]}]))
    reason = "column 'chat' is not a list of messages with a role and a content"
    assert document == Unreadable("b.jsonl:1", reason)


def test_nulls_that_a_table_wrote_into_json_lines_are_no_fields(tmp_path: Path) -> None:
    """Where one chat has tool calls, every message of all has the field; a template asks whether it is there."""
    turns = [{**message, "tool_calls": message.get("tool_calls")} for message in CHAT]
    listed = builders.write_lines(tmp_path / "a.jsonl", [{"chat": turns}])
    (tmp_path / "b.json").write_text(json.dumps([{"chat": turns}]))
    for path in (listed, tmp_path / "b.json"):
        (document,) = read(path)
        assert isinstance(document, Document)
        assert document.messages == tuple(CHAT)


def test_null_contents_beside_tool_calls_in_a_table(tmp_path: Path) -> None:
    rows = [{"chat": [{**message, "content": message["content"] or None} for message in CHAT]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (document,) = read(tmp_path / "rows.parquet", "parquet")
    assert isinstance(document, Document)
    assert document.messages == tuple(CHAT)


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "No "}, {"type": "text", "text": "rain."}]
    assert as_messages([{"role": "assistant", "content": parts}]) == (CHAT[3],)
    image = {"type": "image_url", "image_url": {"url": "x"}}
    reason = "has a message with a part of type 'image_url', where only text is read"
    assert as_messages([{"role": "user", "content": [*parts, image]}]) == reason


def test_the_speakers_of_sharegpt_have_roles() -> None:
    turns = [("system", "Be brief."), ("human", "Rain?"), ("gpt", "No rain.")]
    chat = as_messages([{"from": speaker, "value": said, "weight": 1} for speaker, said in turns])
    assert chat == tuple(
        {"role": role, "content": said, "weight": 1}
        for role, (_, said) in zip(("system", "user", "assistant"), turns, strict=True)
    )
    reason = "has a message from another speaker than human, gpt, system, and no role"
    assert as_messages([{"from": "observation", "value": "x"}]) == reason
    assert as_messages([{"from": "gpt", "text": "x"}]) == "is not a list of messages with a role and a content"


def test_a_field_that_is_not_json_drops_the_chat(tmp_path: Path) -> None:
    day = datetime.datetime(2024, 1, 1)
    pq.write_table(pa.Table.from_pylist([{"chat": [{**CHAT[3], "when": day}]}]), tmp_path / "rows.parquet")
    reason = "column 'chat' has messages with a field that is not JSON"
    assert read(tmp_path / "rows.parquet", "parquet") == [Unreadable("rows.parquet:1", reason)]


@pytest.mark.parametrize(
    ("value", "tools"),
    [
        (None, ()),
        ("", ()),
        ([], ()),
        ('[{"name": "f"}]', ({"name": "f"},)),
        ([{"name": "f"}], ({"name": "f"},)),
        ("{", None),
        ('"f"', None),
        (["f"], None),
        ({"name": "f"}, None),
        ([{"when": float("nan")}], None),
    ],
)
def test_tools_are_a_list_of_json_objects_or_its_text(value: Any, tools: Any) -> None:
    assert as_tools(value) == tools


FAILING = ["{{ 1 // 0 }}", "{{ messages[0].content | int + 'x' }}", "{{ messages[0].content.index('x') }}"]


@pytest.mark.parametrize("template", FAILING)
def test_a_template_that_fails_drops_the_chat_with_its_words(template: str, tmp_path: Path) -> None:
    (encoded,) = load(tmp_path, template).encode([Document("key", "", tuple(CHAT))])
    assert isinstance(encoded, Unreadable)
    assert encoded.reason.startswith("the chat template refuses it: ")


def test_several_templates_need_a_default(tmp_path: Path) -> None:
    several = {"rag": "x", "tool_use": TEMPLATE}
    with pytest.raises(ConfigError, match=r"or one that is named default, found only rag, tool_use\. Name one"):
        load(tmp_path / "several", several).encode([Document("key", "", tuple(CHAT))])
    tokenizer = load(tmp_path / "default", several | {"default": builders.PLAIN_TEMPLATE})
    plain, with_tools = tokenizer.encode([Document("key", "", tuple(CHAT), tools) for tools in (None, tuple(TOOLS))])
    assert isinstance(plain, TokenizedDocument)
    assert isinstance(with_tools, TokenizedDocument)
    assert "<tools>" not in tokenizer.decode(plain.ids)
    assert "<tools>" in tokenizer.decode(with_tools.ids)
