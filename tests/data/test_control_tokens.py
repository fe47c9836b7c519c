"""Control tokens, unknown tokens and characters that no token spells: counted, and kept as text where that can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from pipeline.data.documents import Document, Findings, TokenizedDocument
from pipeline.data.preparation import prepare_sequences
from pipeline.data.report import DataReport
from pipeline.data.settings import DataSettings
from pipeline.data.tokenizer import Tokenizer as OurTokenizer
from pipeline.errors import ConfigError
from tests.data import builders


def prepare(tokenizer: OurTokenizer, folder: Path, rows: list[Any], **values: Any) -> DataReport:
    path = builders.write_lines(folder / "rows.jsonl", rows)
    settings = DataSettings(source="jsonl", path=str(path), sequence_length=8, **values)
    return prepare_sequences(settings, tokenizer, "packed")[1]


def encode(tokenizer: OurTokenizer, document: Document, **values: Any) -> TokenizedDocument:
    (encoded,) = tokenizer.encode([document], **values)
    assert isinstance(encoded, TokenizedDocument), encoded
    return encoded


def alphabet() -> Tokenizer:
    """Knows four letters and the space, has no unknown token and no bytes to fall back to."""
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate("abcd ")}, []))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def test_a_control_token_that_a_text_spells_is_text(tmp_path: Path) -> None:
    tokenizer = OurTokenizer.load(builders.save(builders.byte_level(), tmp_path))
    text = "ends with <|endoftext|>, says <|im_end|>"
    as_text = encode(tokenizer, Document("key", text))
    assert len(as_text.ids) == len(text) + 1
    assert as_text.ids[:-1].max() < 256
    assert as_text.findings == Findings(len(text), num_control_spelled=2)
    assert tokenizer.decode(as_text.ids) == text + "<|endoftext|>"
    as_control = encode(tokenizer, Document("key", text), read_control_tokens=True)
    assert as_control.ids.tolist().count(256) == 2
    assert as_control.findings.num_control_ids == 2
    assert encode(tokenizer, Document("key", text)).ids.tolist() == as_text.ids.tolist()


def test_in_a_chat_only_those_of_the_template_stay_unsaid(tmp_path: Path) -> None:
    tokenizer = OurTokenizer.load(builders.save(builders.byte_level(), tmp_path, builders.PLAIN_TEMPLATE))
    chat = ({"role": "user", "content": "what is <|im_end|>?"}, {"role": "assistant", "content": "a mark"})
    encoded = encode(tokenizer, Document("key", "", chat))
    assert encoded.ids.tolist().count(258) == 3
    assert (encoded.findings.num_control_spelled, encoded.findings.num_control_ids) == (1, 1)


def test_spelled_control_tokens_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = OurTokenizer.load(builders.save(builders.byte_level(), tmp_path))
    report = prepare(tokenizer, tmp_path, [{"text": "one <s> two"}, {"text": "three four"}])
    line = "control tokens spelled in the text: 1; 0 became the control token, the others are text like any other"
    assert line in report.summary_lines()
    assert "control tokens" not in capsys.readouterr().err


def test_one_that_the_model_itself_finds_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = OurTokenizer.load(builders.save(builders.words(), tmp_path, unk_token="<unk>"))
    report = prepare(words, tmp_path, [{"text": "the <|endoftext|> cat"}, {"text": "the cat sat"}])
    assert (report.num_control_spelled, report.num_control_ids) == (1, 1)
    assert "1 control tokens that the text spells became the control tokens themselves" in capsys.readouterr().err


def test_the_end_of_text_id_is_not_unknown_though_it_is_the_same_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    special = {"unk_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    tokenizer = OurTokenizer.load(builders.save(builders.byte_level(), tmp_path, template, **special))
    assert tokenizer.unknown_id == tokenizer.end_of_text_id
    report = prepare(tokenizer, tmp_path, [{"text": "short"}, {"text": "text"}])
    assert report.num_unknown_tokens == 0
    chat = [{"role": "user", "content": "hm"}, {"role": "assistant", "content": "yes"}]
    assert encode(tokenizer, Document("key", "", tuple(chat))).findings.num_unknown_tokens == 0
    assert "unknown" not in capsys.readouterr().err


def test_characters_without_a_token_are_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = OurTokenizer.load(builders.save(alphabet(), tmp_path))
    report = prepare(tokenizer, tmp_path, [{"text": "abc xyz"}, {"text": "dab cad"}])
    assert report.num_uncovered_characters == 3
    assert "characters that no token spells: 3 (21.43%)" in report.summary_lines()
    assert "21.4% of the characters are lost: no token of this tokenizer spells them" in capsys.readouterr().err


def test_white_space_between_words_is_not_lost_text(tmp_path: Path) -> None:
    tokenizer = alphabet()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    encoded = encode(OurTokenizer.load(builders.save(tokenizer, tmp_path)), Document("key", "ab \n cd"))
    assert encoded.findings.num_uncovered_characters == 0


def test_a_tokenizer_that_cannot_go_on_says_so(tmp_path: Path) -> None:
    vocabulary = {word: index for index, word in enumerate(["The", "the", "a", "b", " b", "<|endoftext|>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<none>"))
    with pytest.raises(ConfigError, match=r"cannot encode this text: .* Use a tokenizer with an unknown token"):
        OurTokenizer.load(builders.save(tokenizer, tmp_path))
