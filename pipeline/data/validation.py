"""Which documents are usable: looked at before any compute, and counted when they are not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator

from pipeline.data.documents import Document, TokenizedDocument, Unreadable
from pipeline.data.pieces import cut_text
from pipeline.data.report import DataReport
from pipeline.data.settings import DataSettings

_DIGEST_BYTES = 16


def usable_documents(
    documents: Iterable[Document | Unreadable], settings: DataSettings, report: DataReport
) -> Iterator[Document]:
    """The documents worth tokenising; the others are counted in `report` by reason."""
    seen: set[bytes] = set()
    for document in documents:
        report.documents_read += 1
        reason = document.reason if isinstance(document, Unreadable) else _fault(document, settings, seen)
        if reason is not None:
            report.drop(document.key, reason)
        else:
            assert isinstance(document, Document)
            yield document


def fault_in_ids(document: TokenizedDocument, vocab_size: int) -> str | None:
    """Why the ids of a document cannot be used, or None."""
    return f"has token ids of {vocab_size} or more" if int(document.ids.max()) >= vocab_size else None


def _fault(document: Document, settings: DataSettings, seen: set[bytes]) -> str | None:
    text = document.content
    if not text or text.isspace():
        return "empty"
    if len(text) < settings.min_characters:
        return f"shorter than {settings.min_characters} characters"
    if document.messages is not None and all(message["role"] != "assistant" for message in document.messages):
        return "without a message of the assistant"
    try:
        digest = _digest(document)
    except UnicodeEncodeError:
        return "not valid Unicode (a lone surrogate)"
    if settings.drop_duplicates:
        if digest in seen:
            return "duplicate"
        seen.add(digest)
    return None


def _digest(document: Document) -> bytes:
    """Of the text, or of the messages with all their fields and the tools; UnicodeEncodeError where it has none."""
    whole = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    text = document.text
    if document.messages is not None:
        chat = [list(document.messages), list(document.tools or ())]
        text = json.dumps(chat, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for start, end in cut_text(text):
        whole.update(text[start:end].encode())
    return whole.digest()
