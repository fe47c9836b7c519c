"""The tokenizer: documents to ids, with what each token adds and whether it is ever a label that counts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import transformers
from numpy.typing import NDArray
from transformers.utils.chat_template_utils import render_jinja_template

from pipeline.data.byte_lengths import bytes_of_ids, bytes_of_spans
from pipeline.data.chat import Span, marks_generation, spans_by_prefixes, tokens_in_spans
from pipeline.data.documents import Document, Message, TokenizedDocument, Unreadable
from pipeline.errors import ConfigError
from pipeline.files import canonical_json

# Texts on which tokenizers of equal vocabulary differ: case, accents composed or not, white space, digits, code.
_PROBES = (
    "The quick brown fox, it's 1,234.56 km away!",
    "  leading, double  and trailing spaces \t\n\n",
    "def f(x):\n    return x ** 2  # Größe\r\n",
    "na\u00efve nai\u0308ve \ufb01 \u00bd \u0130",
    "日本語のテキスト、العربية, हिन्दी, 🇺🇳👩‍👩‍👧",
    "\u200b\u00a0\u3000\ufeffzero width",
    "a" * 40 + "0123456789" * 3,
    "<s></s><|endoftext|>[MASK]",
)


class Tokenizer:
    """A fast tokenizer of transformers, with what distillation needs to know of it."""

    def __init__(self, fast: Any, name: str) -> None:
        self.name = name
        if not getattr(fast, "is_fast", False):
            raise ConfigError(
                f"tokenizer {name}: expected a fast tokenizer (tokenizer.json), found {type(fast).__name__} without "
                "one. Convert it with transformers on a machine that can, and save it again with save_pretrained."
            )
        if fast.eos_token_id is None:
            raise ConfigError(
                f"tokenizer {name}: has no end-of-text token, which must end every document. Name one of its tokens "
                'as "eos_token" in its tokenizer_config.json.'
            )
        self._fast, self._backend = fast, fast.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._vocabulary: dict[str, int] = self._backend.get_vocab(with_added_tokens=True)
        self.end_of_text_id = int(fast.eos_token_id)
        self.unknown_id: int | None = fast.unk_token_id
        self.vocab_size = max(self._vocabulary.values()) + 1
        self._start_ids = self._ids_before_text()
        self._bytes_of_ids = self._table_of_bytes()

    @classmethod
    def load(cls, reference: str | Path, revision: str | None = None, trust_remote_code: bool = False) -> Tokenizer:
        """The tokenizer in a folder, or of a hub id. ConfigError says what is missing."""
        try:
            fast = transformers.AutoTokenizer.from_pretrained(
                str(reference), revision=revision, trust_remote_code=trust_remote_code
            )
        except Exception as error:  # a missing folder, a damaged file, the hub: each raises something else
            raise ConfigError(_explain(reference, error)) from error
        return cls(fast, str(reference))

    def encode(self, documents: Sequence[Document]) -> list[TokenizedDocument | Unreadable]:
        """Each document as ids, or the reason why not, in the order given."""
        texts = iter(self._encode_texts([document for document in documents if document.messages is None]))
        chats = iter(self._encode_chats([document for document in documents if document.messages is not None]))
        return [next(texts if document.messages is None else chats) for document in documents]

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        """The text of ids, special tokens included."""
        return str(self._backend.decode([int(index) for index in ids], skip_special_tokens=False))

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into a folder that `files.publish_folder` makes durable."""
        self._fast.save_pretrained(str(folder))

    def fingerprint(self) -> dict[str, Any]:
        """What its ids stand for and how it cuts texts; nothing in it depends on the version of a library."""
        template = self._fast.chat_template
        return {
            "vocab_size": self.vocab_size,
            "end_of_text_id": self.end_of_text_id,
            "vocabulary_sha256": _sha256(sorted((index, token) for token, index in self._vocabulary.items())),
            "special_tokens_sha256": _sha256(self._added_tokens()),
            "behaviour_sha256": _sha256(
                [self._start_ids, [encoding.ids for encoding in self._encode_batch(list(_PROBES))]]
            ),
            "chat_template_sha256": None if template is None else _sha256(template),
        }

    # -------------------------------------------------------------- texts

    def _encode_texts(self, documents: list[Document]) -> list[TokenizedDocument | Unreadable]:
        texts = [document.text for document in documents]
        if self._bytes_of_ids is None:
            return [self._by_spans(*pair) for pair in zip(documents, self._encode_batch(texts), strict=True)]
        fast = self._backend.encode_batch_fast(texts, add_special_tokens=False)  # without offsets: twice as fast
        return [self._by_table(*pair) for pair in zip(documents, fast, strict=True)]

    def _by_table(self, document: Document, encoding: Any) -> TokenizedDocument | Unreadable:
        assert self._bytes_of_ids is not None
        num_bytes = self._bytes_of_ids[np.array(encoding.ids, np.uint32)]
        if int(num_bytes.sum()) != len(document.text.encode()):  # a normaliser changed the text
            return self._by_spans(document, self._encode_batch([document.text])[0])
        return self._finish_text(document, encoding.ids, num_bytes)

    def _by_spans(self, document: Document, encoding: Any) -> TokenizedDocument | Unreadable:
        _, ends = _spans(encoding)
        return self._finish_text(document, encoding.ids, bytes_of_spans(document.text, ends))

    def _finish_text(
        self, document: Document, ids: list[int], num_bytes: NDArray[np.int64]
    ) -> TokenizedDocument | Unreadable:
        """Add the ids before a text, which are not scored, and the end-of-text id, which is: it gets the bytes left."""
        if not ids:
            return Unreadable(document.key, "encodes to no token")
        start = len(self._start_ids)
        whole = np.array([*self._start_ids, *ids, self.end_of_text_id], np.uint32)
        scored = np.ones(len(whole), np.bool_)
        scored[:start] = False
        added = np.zeros(len(whole), np.int64)
        added[start:-1] = num_bytes
        added[-1] = len(document.text.encode()) - int(num_bytes.sum())
        return TokenizedDocument(document.key, whole, scored, added)

    # -------------------------------------------------------------- chats

    def _encode_chats(self, documents: list[Document]) -> list[TokenizedDocument | Unreadable]:
        rendered = [self._render_chat(document) for document in documents]
        encodings = iter(self._encode_batch([chat[0] for chat in rendered if not isinstance(chat, Unreadable)]))
        return [
            chat if isinstance(chat, Unreadable) else self._finish_chat(document.key, *chat, next(encodings))
            for document, chat in zip(documents, rendered, strict=True)
        ]

    def _finish_chat(self, key: str, text: str, spans: list[Span], encoding: Any) -> TokenizedDocument | Unreadable:
        starts, ends = _spans(encoding)
        scored = tokens_in_spans(len(text), spans, starts, ends)
        if not scored.any():
            return Unreadable(key, "the assistant says nothing")
        ids = np.array([*encoding.ids, self.end_of_text_id], np.uint32)
        return TokenizedDocument(key, ids, np.append(scored, False), np.append(bytes_of_spans(text, ends), 0))

    def _render_chat(self, document: Document) -> tuple[str, list[Span]] | Unreadable:
        if self._fast.chat_template is None:
            raise ConfigError(
                f"tokenizer {self.name}: has no chat template, and data.messages_column asks for chats. Use the "
                "tokenizer of a chat model, add a chat_template.jinja to its folder, or set data.text_column."
            )
        messages = document.messages or ()
        try:
            if marks_generation(self._fast.get_chat_template()):
                return self._render(messages, False, mark=True)
            found = spans_by_prefixes(messages, lambda part, prompt: self._render(part, prompt)[0])
        except (jinja2.TemplateError, TypeError) as error:
            return Unreadable(document.key, f"the chat template refuses it: {_first_line(error)}")
        return found or Unreadable(document.key, "the chat template does not show what the assistant wrote")

    def _render(self, messages: Sequence[Message], prompt: bool, mark: bool = False) -> tuple[str, list[Span]]:
        texts, spans = render_jinja_template(
            conversations=[list(messages)],
            chat_template=self._fast.get_chat_template(),
            return_assistant_tokens_mask=mark,
            add_generation_prompt=prompt,
            **self._fast.special_tokens_map,
        )
        return texts[0], [(start, end) for start, end in spans[0]] if mark else []

    # -------------------------------------------------------------- what is found out once

    def _encode_batch(self, texts: list[str]) -> list[Any]:
        return list(self._backend.encode_batch(texts, add_special_tokens=False))

    def _ids_before_text(self) -> list[int]:
        """The begin-of-text id, if this tokenizer puts one before every text."""
        alone = self._backend.encode("a", add_special_tokens=False).ids
        with_special = self._backend.encode("a", add_special_tokens=True).ids
        begin = self._fast.bos_token_id
        return [int(begin)] if begin is not None and [begin, *alone] == with_special[: len(alone) + 1] else []

    def _added_tokens(self) -> list[tuple[int, str, bool, bool, bool, bool, bool]]:
        """Id and spelling of each token found before the text is cut, and how it is looked for."""
        return sorted(
            (index, token.content, token.special, token.normalized, token.lstrip, token.rstrip, token.single_word)
            for index, token in self._backend.get_added_tokens_decoder().items()
        )

    def _table_of_bytes(self) -> NDArray[np.int64] | None:
        """[V] bytes of every id, if the tokenizer is byte-level."""
        table = bytes_of_ids(self._vocabulary, {token: index for index, token, *_ in self._added_tokens()})
        plain = list(_PROBES[:3])  # those no usual normaliser touches
        lengths = [int(table[encoding.ids].sum()) for encoding in self._encode_batch(plain)]
        return table if lengths == [len(text.encode()) for text in plain] else None


def tokenizer_differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """One readable line for each reason why ids of one tokenizer mean something else to the other.

    The end-of-text id and the chat template may differ between models that share a tokenizer (a base model and its
    chat version): they shape documents, not what an id means.
    """
    words = {
        "vocab_size": "size of the vocabulary",
        "vocabulary_sha256": "tokens and their ids",
        "special_tokens_sha256": "added tokens",
        "behaviour_sha256": "how texts are cut into tokens",
    }
    return [
        f"  {name}: {before.get(key)} -> {after.get(key)}"
        for key, name in words.items()
        if before.get(key) != after.get(key)
    ]


def _spans(encoding: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    return offsets[:, 0], offsets[:, 1]


def _sha256(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _explain(reference: str | Path, error: Exception) -> str:
    reason = _first_line(error)
    folder = Path(reference)
    if folder.is_dir():
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
        return f"tokenizer {reference}: cannot be loaded from this folder, which holds {names}. {reason}"
    return (
        f"tokenizer {reference}: no such folder, and the hub does not give it. {reason} Check the name; for a private "
        "or gated model run `hf auth login`; without a network, name a local folder."
    )
