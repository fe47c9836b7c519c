"""What is left out before any compute, and why."""

from __future__ import annotations

import numpy as np

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
