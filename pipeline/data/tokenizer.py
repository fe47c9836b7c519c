"""The tokenizer: documents to ids, with what each token adds and whether it is ever a label that counts."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from numpy.typing import NDArray
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER
from transformers.utils.chat_template_utils import render_jinja_template

from pipeline.console import warn_once
from pipeline.data.byte_lengths import bytes_of_ids, bytes_of_spans, count_uncovered, narrowed, spans_of
from pipeline.data.chat import Span, tokens_in_spans
from pipeline.data.chat_template import ChatTemplate
from pipeline.data.control_tokens import ControlTokens
from pipeline.data.documents import Document, Findings, TokenizedDocument, Unreadable
from pipeline.data.texts import Done, TextEncoder
from pipeline.errors import ConfigError, StorageError, first_line
from pipeline.files import canonical_json
from pipeline.refusals import reading_errors

_SHOWN_TOKENS = 3
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

    def __init__(self, fast: Any, name: str, vocab_size: int | None = None) -> None:
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
        num_ids = max(self._vocabulary.values()) + 1
        self.vocab_size = num_ids if vocab_size is None else vocab_size
        self.start_ids = self._ids_before_text()
        """what it puts before every text; empty with most"""
        self._control = ControlTokens(self._backend, num_ids, self.unknown_id, self.end_of_text_id)
        self._template = ChatTemplate(fast, name, render_jinja_template)
        self._texts = TextEncoder(
            self._encode_batch,
            self._table_of_bytes(),
            self._control,
            self.start_ids,
            self.end_of_text_id,
            self.unknown_id,
            self._adds_space(),
        )

    @classmethod
    def load(cls, reference: str | Path, revision: str | None = None, trust_remote_code: bool = False) -> Tokenizer:
        """The tokenizer in a folder, or of a hub id. ConfigError says what is missing."""
        try:
            with reading_errors(Path(reference)):
                fast = transformers.AutoTokenizer.from_pretrained(
                    str(reference), revision=revision, trust_remote_code=trust_remote_code
                )
                if not getattr(fast, "is_fast", False):  # of another library, though its tokenizer.json is there
                    with contextlib.suppress(Exception):
                        fast = transformers.PreTrainedTokenizerFast.from_pretrained(str(reference), revision=revision)
        except StorageError:
            raise
        except Exception as error:  # a missing folder, a damaged file, the hub: each raises something else
            raise ConfigError(_explain(reference, error)) from error
        return cls(fast, str(reference))

    def within(self, num_rows: int) -> Tokenizer:
        """The same without the special tokens for which a model's matrices of so many rows have none.

        Some models have none for a token of pictures that their larger relatives read. A document that holds one is
        dropped. Where anything else is beyond the rows, nothing is left out.
        """
        if num_rows >= self.vocab_size:
            return self
        special = {index for index, _, is_special, *_ in self._added_tokens() if is_special}
        beyond = {index: token for token, index in self._vocabulary.items() if index >= num_rows}
        if self.end_of_text_id >= num_rows or not special.issuperset(beyond):
            return self
        names = ", ".join(beyond[index] for index in sorted(beyond)[:_SHOWN_TOKENS])
        warn_once(
            f"tokenizer {self.name}: {len(beyond):,} special token{'s' * (len(beyond) > 1)} ({names}) beyond the "
            f"model's {num_rows:,} rows, left out: a document that holds one is dropped"
        )
        return Tokenizer(self._fast, self.name, num_rows)

    def encode(
        self,
        documents: Sequence[Document],
        read_control_tokens: bool = False,
        done: Done = lambda num_characters: None,
        most_ids: int | None = None,
    ) -> list[TokenizedDocument | Unreadable]:
        """Each document as ids, or the reason why not, in the order given.

        A control token that a text spells ("<|endoftext|>" in a page about tokenizers) is encoded as the characters it
        is, unless `read_control_tokens`; in a chat it cannot be told from the template's own. `done` hears the number
        of characters encoded, now and then; what it raises stops the work. Of a text of more than `most_ids` ids only
        the beginning may be encoded, which then has more than that many.
        """
        plain = [document for document in documents if document.messages is None]
        texts = iter(self._texts.encode(plain, read_control_tokens, done, most_ids))
        chats = iter(self._encode_chats([document for document in documents if document.messages is not None], done))
        return [next(texts if document.messages is None else chats) for document in documents]

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        """The text of ids, special tokens included."""
        return str(self._backend.decode([int(index) for index in ids], skip_special_tokens=False))

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into a folder that `files.publish_folder` makes durable.

        Several chat templates stand in tokenizer_config.json: as files of their own they would need a folder below.
        """
        several = isinstance(self._fast.chat_template, dict)
        self._fast.save_pretrained(str(folder), save_jinja_files=not several)

    def save_beside(self, folder: Path, max_positions: int | None) -> None:
        """The same beside a model, whose longest text is the tokenizer's then; None where the model has no longest."""
        before = self._fast.model_max_length
        self._fast.model_max_length = max_positions or VERY_LARGE_INTEGER
        try:
            self.save(folder)
        finally:
            self._fast.model_max_length = before

    def fingerprint(self) -> dict[str, Any]:
        """What its ids stand for and how it cuts texts; nothing in it depends on the version of a library."""
        template = self._fast.chat_template
        return {
            "vocab_size": self.vocab_size,
            "end_of_text_id": self.end_of_text_id,
            "vocabulary_sha256": _sha256(
                sorted((index, token) for token, index in self._vocabulary.items() if index < self.vocab_size)
            ),
            "special_tokens_sha256": _sha256(self._added_tokens()),
            "behaviour_sha256": _sha256(
                [self.start_ids, [encoding.ids for encoding in self._encode_batch(list(_PROBES))]]
            ),
            "chat_template_sha256": None if template is None else _sha256(template),
        }

    # -------------------------------------------------------------- chats

    def _encode_chats(self, documents: list[Document], done: Done) -> list[TokenizedDocument | Unreadable]:
        rendered = [self._template.render(document) for document in documents]
        texts = [chat[0] for chat in rendered if not isinstance(chat, Unreadable)]
        encodings = iter(self._encode_batch(texts))
        done(sum(len(text) for text in texts))
        return [
            chat if isinstance(chat, Unreadable) else self._finish_chat(document, *chat, next(encodings))
            for document, chat in zip(documents, rendered, strict=True)
        ]

    def _finish_chat(
        self, document: Document, text: str, spans: list[Span], num_turns_unscored: int, encoding: Any
    ) -> TokenizedDocument | Unreadable:
        starts, ends = spans_of(encoding)
        scored = tokens_in_spans(len(text), spans, starts, ends)
        if not scored.any():
            return Unreadable(document.key, "the assistant says nothing")
        ids = np.array([*encoding.ids, self.end_of_text_id], np.uint32)
        num_bytes = narrowed(np.append(bytes_of_spans(text, ends), 0))
        findings = self._findings_of_chat(document, text, ids[:-1])
        findings.num_uncovered_characters = count_uncovered(text, starts, ends)
        findings.num_turns_unscored = num_turns_unscored
        return TokenizedDocument(document.key, ids, np.append(scored, False), num_bytes, findings)

    def _findings_of_chat(self, document: Document, text: str, ids: NDArray[np.uint32]) -> Findings:
        """Of a chat the template's control tokens are control tokens; so are those that a message spells."""
        spelled = self._control.count_spelled(document.content)
        findings = Findings(len(text), num_control_spelled=spelled, num_control_ids=spelled)
        if self.unknown_id is not None:  # where the unknown token is the end-of-text one, templates write it on purpose
            written = text.count(self._backend.id_to_token(self.unknown_id))
            findings.num_unknown_tokens = max(0, int(np.count_nonzero(ids == self.unknown_id)) - written)
        return findings

    # -------------------------------------------------------------- what is found out once

    def _encode_batch(self, texts: list[str], read_control_tokens: bool = True, spans: bool = True) -> list[Any]:
        """One encoding a text; without spans it is twice as fast."""
        self._backend.encode_special_tokens = not read_control_tokens
        encode = self._backend.encode_batch if spans else self._backend.encode_batch_fast
        try:
            return list(encode(texts, add_special_tokens=False))
        except Exception as error:  # the library has no kind of its own: a word that no token spells, without unknown
            raise ConfigError(
                f"tokenizer {self.name}: cannot encode this text: {first_line(error)} Use a tokenizer with an unknown "
                "token, or one that falls back to bytes."
            ) from error

    def _adds_space(self) -> bool:
        """Whether a piece is to be given without the space before it, because the tokenizer puts one there itself."""
        whole, first, rest, spaced = (encoding.ids for encoding in self._encode_batch(["a b", "a", "b", " b"]))
        return bool(whole == first + rest != first + spaced)

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


def _sha256(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _explain(reference: str | Path, error: Exception) -> str:
    reason = first_line(error)
    folder = Path(reference)
    if folder.is_dir():
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
        return f"tokenizer {reference}: cannot be loaded from this folder, which holds {names}. {reason}"
    return (
        f"tokenizer {reference}: no such folder, and the hub does not give it. {reason} Check the name; for a private "
        "or gated model run `hf auth login`; without a network, name a local folder."
    )
