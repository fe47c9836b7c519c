"""The tokenizer: ids as transformers gives them, bytes that add up, labels of the assistant only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from pipeline import files
from pipeline.data.documents import Document, TokenizedDocument, Unreadable
from pipeline.data.tokenizer import Tokenizer, tokenizer_differences
from pipeline.errors import ConfigError
from tests.data import builders

TEXTS = [
    "a",
    "plain ascii\n",
    "Größe, naïve, ½ – “quotes”",
    "日本語 العربية हिन्दी",
    "🇺🇳👩‍👩‍👧 emoji",
    "  spaces \t\r\n around  ",
    "nai\u0308ve, not composed",
    "a literal <|endoftext|> inside",
    "\u0000 and \ufeff",
]
CHAT = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Grüße?"},
    {"role": "assistant", "content": "Grüße!"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "Bye 👋"},
)


def encode_one(tokenizer: Tokenizer, document: Document) -> TokenizedDocument:
    (encoded,) = tokenizer.encode([document])
    assert isinstance(encoded, TokenizedDocument), encoded
    return encoded


def chat_tokenizer(folder: Path, template: str | None) -> Tokenizer:
    return Tokenizer.load(builders.save(builders.byte_level(), folder, template))


# ------------------------------------------------------------------ texts


@pytest.mark.parametrize("kind", [builders.byte_level, builders.composing, builders.pieces, builders.words])
@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers_and_bytes_add_up(kind: object, text: str, tmp_path: Path) -> None:
    folder = builders.save(kind(), tmp_path / "tokenizer")  # type: ignore[operator]
    encoded = encode_one(Tokenizer.load(folder), Document("key", text))
    reference = transformers.AutoTokenizer.from_pretrained(str(folder))
    plain = reference(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert encoded.ids.tolist() == [*plain, reference.eos_token_id]
    assert encoded.scored.all()
    assert int(encoded.num_bytes.sum()) == len(text.encode())
    assert encoded.ids.dtype == np.uint32
    assert encoded.scored.dtype == np.bool_
    assert encoded.num_bytes.dtype == np.uint8


def test_bytes_of_a_byte_level_token_are_its_own(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, None)
    (encoded,) = tokenizer.encode([Document("key", "é<|im_end|>")], read_control_tokens=True)
    assert isinstance(encoded, TokenizedDocument)
    assert encoded.num_bytes.tolist() == [1, 1, 10, 0]


def test_documents_come_back_in_the_order_given(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, builders.PLAIN_TEMPLATE)
    documents = [Document("0", "zero"), Document("1", "", CHAT), Document("2", "two"), Document("3", "", CHAT[:2])]
    assert [encoded.key for encoded in tokenizer.encode(documents)] == ["0", "1", "2", "3"]
    assert tokenizer.encode([]) == []


def test_a_begin_of_text_id_is_added_once_and_never_scored(tmp_path: Path) -> None:
    folder = builders.save(builders.byte_level(begin=True), tmp_path, bos_token="<s>")
    encoded = encode_one(Tokenizer.load(folder), Document("key", "hi"))
    reference = transformers.AutoTokenizer.from_pretrained(str(folder))
    assert encoded.ids.tolist() == [*reference("hi")["input_ids"], reference.eos_token_id]
    assert encoded.ids[0] == reference.bos_token_id
    assert encoded.scored.tolist() == [False, True, True, True]
    assert encoded.num_bytes.tolist() == [0, 1, 1, 0]


def test_a_begin_of_text_token_that_is_not_used_is_not_added(tmp_path: Path) -> None:
    folder = builders.save(builders.byte_level(begin=False), tmp_path, bos_token="<s>")
    assert len(encode_one(Tokenizer.load(folder), Document("key", "hi")).ids) == 3


def test_a_limit_in_the_tokenizer_file_cuts_nothing(tmp_path: Path) -> None:
    limited = builders.byte_level()
    limited.enable_truncation(4)
    limited.enable_padding(length=16)
    tokenizer = Tokenizer.load(builders.save(limited, tmp_path))
    assert len(encode_one(tokenizer, Document("key", "longer than four")).ids) == 17


def test_a_text_of_no_token_is_unreadable(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(builders.save(builders.words(), tmp_path))
    assert tokenizer.encode([Document("key", " \n ")]) == [Unreadable("key", "encodes to no token")]


def test_vocab_size_counts_from_the_largest_id(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, None)
    assert (tokenizer.vocab_size, tokenizer.end_of_text_id, tokenizer.unknown_id) == (260, 256, None)
    words = Tokenizer.load(builders.save(builders.words(), tmp_path / "words", unk_token="<unk>"))
    assert words.unknown_id == 0


def test_decode_gives_the_text_back(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, None)
    for text in TEXTS:
        assert tokenizer.decode(encode_one(tokenizer, Document("key", text)).ids) == text + "<|endoftext|>"


# ------------------------------------------------------------------ chats


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (builders.PLAIN_TEMPLATE, ["Grüße!<|im_end|>\n", "Bye 👋<|im_end|>\n"]),
        (builders.MARKED_TEMPLATE, ["Grüße!<|im_end|>", "Bye 👋<|im_end|>"]),
    ],
)
def test_only_the_assistant_is_scored(template: str, expected: list[str], tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, template)
    encoded = encode_one(tokenizer, Document("key", "", CHAT))
    reference = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    rendered = reference.apply_chat_template(list(CHAT), tokenize=False)
    assert tokenizer.decode(encoded.ids) == rendered + "<|endoftext|>"
    assert tokenizer.decode(encoded.ids[encoded.scored]) == "".join(expected)
    assert not encoded.scored[-1]
    assert int(encoded.num_bytes.sum()) == len(rendered.encode())
    assert int(encoded.num_bytes[encoded.scored].sum()) == len("".join(expected).encode())


def test_marks_agree_with_those_of_transformers(tmp_path: Path) -> None:
    encoded = encode_one(chat_tokenizer(tmp_path, builders.MARKED_TEMPLATE), Document("key", "", CHAT))
    reference = transformers.AutoTokenizer.from_pretrained(str(tmp_path)).apply_chat_template(
        list(CHAT), return_dict=True, return_assistant_tokens_mask=True
    )
    assert encoded.ids[:-1].tolist() == reference["input_ids"]
    assert encoded.scored[:-1].tolist() == [bool(flag) for flag in reference["assistant_masks"]]


def test_of_earlier_turns_that_a_template_rewrites_what_stays_is_scored(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, builders.REWRITING_TEMPLATE)
    encoded = encode_one(tokenizer, Document("key", "", CHAT))
    said = tokenizer.decode(encoded.ids[encoded.scored])
    assert said == "Grüße!<|im_end|>\n<think/>Bye 👋<|im_end|>\n"
    single = encode_one(tokenizer, Document("key", "", CHAT[:3]))
    assert tokenizer.decode(single.ids[single.scored]) == "<think/>Grüße!<|im_end|>\n"


CALL = [{"name": "f"}]
CALLED = '<tool_call>{"name": "f"}</tool_call><|im_end|>\n'


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (["Hi", "Hello", "Bye", "Goodbye"], ["Hello<|im_end|>\n", "<think>\n\n</think>\n\nGoodbye<|im_end|>\n"]),
        (["Hi", "Hello", "Bye"], ["Hello<|im_end|>\n"]),
        (
            ["Hi", "<think>\nwell\n</think>\n\nHello\nyou", "Hello\nyou", "<think>hm</think>Bye", "Ok", "Ok"],
            ["Hello\nyou<|im_end|>\n", "Bye<|im_end|>\n", "<think>\n\n</think>\n\nOk<|im_end|>\n"],
        ),
        (["Hi", CALL, "Hi", "Hello"], [CALLED, "<think>\n\n</think>\n\nHello<|im_end|>\n"]),
        (["Hi", CALL, {}, CALL, {}, "Hello"], [CALLED, CALLED, "<think>\n\n</think>\n\nHello<|im_end|>\n"]),
    ],
)
def test_every_turn_of_a_template_like_qwen3s_is_scored(turns: list[Any], expected: list[str], tmp_path: Path) -> None:
    """Users say every second turn; a list is a call of tools, {} what a tool answers."""
    tokenizer = chat_tokenizer(tmp_path, builders.QWEN3_TEMPLATE)
    chat = tuple(
        {"role": "assistant", "content": "", "tool_calls": turn}
        if isinstance(turn, list)
        else {"role": "tool" if turn == {} else "user" if number % 2 == 0 else "assistant", "content": turn or "sunny"}
        for number, turn in enumerate(turns)
    )
    encoded = encode_one(tokenizer, Document("key", "", chat))
    reference = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert tokenizer.decode(encoded.ids[:-1]) == reference.apply_chat_template(list(chat), tokenize=False)
    assert tokenizer.decode(encoded.ids[encoded.scored]) == "".join(expected)
    assert encoded.findings.num_turns_unscored == 0


def test_a_template_that_shows_no_turn_drops_the_chat_and_names_the_remedy(tmp_path: Path) -> None:
    template = "{{ messages | length }} turns. " + builders.PLAIN_TEMPLATE
    (encoded,) = chat_tokenizer(tmp_path, template).encode([Document("key", "", CHAT)])
    reason = (
        "the chat template does not show what the assistant wrote; put it between {% generation %} and "
        "{% endgeneration %} there"
    )
    assert encoded == Unreadable("key", reason)


def test_todays_date_is_the_same_on_every_day(tmp_path: Path) -> None:
    day = "{% set day = strftime_now('%d %b %Y') if strftime_now is defined else 'none' %}{{ day }} "
    template = day + '{{ strftime_now( "%Y-%m-%d" ) }} ' + builders.PLAIN_TEMPLATE
    tokenizer = chat_tokenizer(tmp_path, template)
    encoded = encode_one(tokenizer, Document("key", "", CHAT))
    assert tokenizer.decode(encoded.ids).startswith("26 Jul 2024 2024-07-26 <|im_start|>system")


def test_a_template_that_refuses_the_messages_drops_the_chat_with_its_words(tmp_path: Path) -> None:
    template = "{% if messages[0].role != 'system' %}{{ raise_exception('System first') }}{% endif %}x"
    (encoded,) = chat_tokenizer(tmp_path, template).encode([Document("key", "", CHAT[1:])])
    assert encoded == Unreadable("key", "the chat template refuses it: System first")


def test_a_refusal_without_words_is_named_by_its_kind(tmp_path: Path) -> None:
    (encoded,) = chat_tokenizer(tmp_path, "{{ raise_exception('') }}").encode([Document("key", "", CHAT)])
    assert encoded == Unreadable("key", "the chat template refuses it: TemplateError")


def test_a_silent_assistant_is_dropped(tmp_path: Path) -> None:
    template = "{% for m in messages %}{% generation %}{% endgeneration %}{{ m.content }}{% endfor %}"
    (encoded,) = chat_tokenizer(tmp_path, template).encode([Document("key", "", CHAT)])
    assert encoded == Unreadable("key", "the assistant says nothing")


def test_a_chat_without_a_template_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no chat template"):
        chat_tokenizer(tmp_path, None).encode([Document("key", "", CHAT)])


# ------------------------------------------------------------------ loading, saving, identity


def test_a_folder_without_a_tokenizer_is_named_with_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"cannot be loaded from this folder, which holds model\.safetensors"):
        Tokenizer.load(tmp_path)


def test_an_unreachable_hub_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="no such folder, and the hub does not give it"):
        Tokenizer.load("no-such-owner/no-such-model")


def test_where_another_library_takes_the_name_its_file_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As mistral-common does of Mistral's folders, with a class that is no tokenizer of transformers."""
    builders.save(builders.byte_level(), tmp_path)
    expected = Tokenizer.load(tmp_path).fingerprint()
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: object())
    assert Tokenizer.load(tmp_path).fingerprint() == expected


def test_a_tokenizer_without_an_end_of_text_token_is_refused(tmp_path: Path) -> None:
    builders.save(builders.byte_level(), tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config.pop("eos_token")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match=r'as "eos_token" in its tokenizer_config\.json'):
        Tokenizer.load(tmp_path)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path / "first", builders.PLAIN_TEMPLATE)
    files.publish_folder(tmp_path / "second", tokenizer.save)
    again = Tokenizer.load(tmp_path / "second")
    assert again.fingerprint() == tokenizer.fingerprint()
    assert tokenizer_differences(tokenizer.fingerprint(), again.fingerprint()) == []


def test_each_part_of_a_fingerprint_speaks_of_its_own(tmp_path: Path) -> None:
    def parts_that_differ(tokenizer: Any, template: str | None = builders.PLAIN_TEMPLATE, **special: str) -> set[str]:
        folder = builders.save(tokenizer, tmp_path / "other", template, **special)
        other = Tokenizer.load(folder).fingerprint()
        return {key.removesuffix("_sha256") for key, value in other.items() if value != plain[key]}

    plain = chat_tokenizer(tmp_path / "plain", builders.PLAIN_TEMPLATE).fingerprint()
    assert parts_that_differ(builders.byte_level()) == set()
    assert parts_that_differ(builders.byte_level(), builders.MARKED_TEMPLATE) == {"chat_template"}
    assert parts_that_differ(builders.byte_level(), eos_token="<|im_end|>") == {"end_of_text_id"}
    assert parts_that_differ(builders.byte_level(begin=True), bos_token="<s>") == {"behaviour"}
    assert parts_that_differ(builders.composing()) == {"behaviour"}
    larger = builders.byte_level()
    larger.add_special_tokens(["<|more|>"])
    assert parts_that_differ(larger) == {"vocab_size", "vocabulary", "special_tokens"}


def test_differences_are_about_the_meaning_of_ids(tmp_path: Path) -> None:
    plain = chat_tokenizer(tmp_path / "plain", builders.PLAIN_TEMPLATE).fingerprint()
    chat = builders.save(builders.byte_level(), tmp_path / "chat", builders.MARKED_TEMPLATE, eos_token="<|im_end|>")
    assert tokenizer_differences(plain, Tokenizer.load(chat).fingerprint()) == []
    words = Tokenizer.load(builders.save(builders.words(), tmp_path / "words")).fingerprint()
    lines = tokenizer_differences(plain, words)
    assert lines[0] == "  size of the vocabulary: 260 -> 6"
    assert len(lines) == 4
