"""What is left out before any compute, and why."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.documents import Document, TokenizedDocument, Unreadable
from pipeline.data.report import DataReport
from pipeline.data.settings import DataSettings
from pipeline.data.validation import fault_in_ids, usable_documents


def screen(documents: list[Document | Unreadable], **values: object) -> tuple[list[str], dict[str, list[str]]]:
    """Keys kept, and keys dropped by reason."""
    report = DataReport()
    settings = DataSettings(source="stdlib", **values)  # type: ignore[arg-type]
    kept = [document.key for document in usable_documents(documents, settings, report)]
    assert report.documents_read == len(documents) == len(kept) + report.documents_dropped
    return kept, {reason: dropped.examples for reason, dropped in report.dropped.items()}


def test_each_fault_has_its_reason() -> None:
    kept, dropped = screen(
        [
            Document("good", "hello"),
            Document("empty", ""),
            Document("blank", " \n\t"),
            Document("short", "hi"),
            Document("again", "hello"),
            Document("surrogate", "bad \ud800 text"),
            Unreadable("unreadable", "not valid JSON"),
        ],
        min_characters=3,
    )
    assert kept == ["good"]
    assert dropped == {
        "empty": ["empty", "blank"],
        "shorter than 3 characters": ["short"],
        "duplicate": ["again"],
        "not valid Unicode (a lone surrogate)": ["surrogate"],
        "not valid JSON": ["unreadable"],
    }


def test_duplicates_stay_where_asked() -> None:
    assert screen([Document("a", "same"), Document("b", "same")], drop_duplicates=False) == (["a", "b"], {})


def test_chats_are_compared_by_roles_too() -> None:
    def chat(key: str, *roles: str) -> Document:
        return Document(key, "", tuple({"role": role, "content": "x"} for role in roles))

    kept, dropped = screen(
        [
            chat("a", "user", "assistant"),
            chat("b", "system", "assistant"),
            chat("c", "user", "assistant"),
            chat("d", "user"),
            chat("e"),
        ]
    )
    assert kept == ["a", "b"]
    assert dropped == {"duplicate": ["c"], "without a message of the assistant": ["d"], "empty": ["e"]}


def test_ids_beyond_the_vocabulary_are_a_fault() -> None:
    document = TokenizedDocument("a", np.array([1, 9], np.uint32), np.ones(2, np.bool_), np.zeros(2, np.int64))
    assert fault_in_ids(document, 10) is None
    assert fault_in_ids(document, 9) == "has token ids of 9 or more"


@pytest.mark.parametrize(
    "message",
    [
        {"role": "\ud800", "content": "x"},
        {"role": "assistant", "content": "x", "name": "\udfff"},
        {"role": "assistant", "content": "x", "tool_calls": [{"arguments": {"\ud800": 1}}]},
    ],
)
def test_a_lone_surrogate_anywhere_in_a_chat_is_a_fault(message: dict[str, object]) -> None:
    document = Document("key", "", ({"role": "assistant", "content": "y"}, message))
    assert screen([document]) == ([], {"not valid Unicode (a lone surrogate)": ["key"]})
    assert screen([document], drop_duplicates=False)[0] == []


def test_chats_that_differ_in_a_field_or_a_tool_are_two() -> None:
    chat = {"role": "assistant", "content": "x"}
    documents: list[Document | Unreadable] = [
        Document("a", "", (chat,)),
        Document("b", "", (chat | {"name": "n"},)),
        Document("c", "", (chat,), ({"name": "f"},)),
        Document("d", "", (dict(reversed(chat.items())),)),
    ]
    assert screen(documents) == (["a", "b", "c"], {"duplicate": ["d"]})


def test_a_long_text_is_looked_at_whole() -> None:
    long = "word " * 50_000
    documents: list[Document | Unreadable] = [
        Document("a", long),
        Document("b", long + "."),
        Document("c", long),
        Document("d", long + "\udc00"),
    ]
    kept, dropped = screen(documents)
    assert kept == ["a", "b"]
    assert dropped == {"duplicate": ["c"], "not valid Unicode (a lone surrogate)": ["d"]}
