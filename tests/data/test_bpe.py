"""The tokenizer trained on the spot."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from pipeline.data.bpe import train_tokenizer
from pipeline.data.tokenizer import Tokenizer
from pipeline.errors import ConfigError


def texts_in(folder: Path) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())]


def test_transformers_loads_it_and_text_comes_back(texts_folder: Path, tmp_path: Path) -> None:
    train_tokenizer(texts_in(texts_folder), 400, tmp_path / "bpe")
    reference = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "bpe"))
    assert reference.eos_token == "<|endoftext|>"
    text = "def f(self):\n    return '日本語'  # Größe"
    assert reference.decode(reference(text)["input_ids"]) == text
    tokenizer = Tokenizer.load(tmp_path / "bpe")
    assert tokenizer.vocab_size == 400
    assert not [path for path in tmp_path.iterdir() if path.name != "bpe"]


def test_the_same_texts_give_the_same_bytes(texts_folder: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        train_tokenizer(texts_in(texts_folder), 400, tmp_path / name)
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("first", "second"))
    assert [path.name for path in first] == ["tokenizer.json", "tokenizer_config.json"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_texts_too_few_for_the_vocabulary_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_tokenizer(["abab"], 300, tmp_path / "bpe")
    assert "too few for 300 tokens; the tokenizer has 259" in capsys.readouterr().err
    assert Tokenizer.load(tmp_path / "bpe").vocab_size == 259


def test_a_vocabulary_too_small_for_all_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 257"):
        train_tokenizer(["x"], 256, tmp_path / "bpe")
    assert not (tmp_path / "bpe").exists()
