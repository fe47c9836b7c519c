"""Long texts in pieces: nothing lost, and the ids of the whole text with the usual tokenizers."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, pre_tokenizers, trainers

from pipeline.data import texts
from pipeline.data.documents import Document, TokenizedDocument
from pipeline.data.pieces import cut_text
from pipeline.data.tokenizer import Tokenizer as OurTokenizer
from tests.data import builders

PROSE = "The cat sat, 12 times;\n\n  it's größe 3 日本語 of  a s p.\r\n" * 9
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def with_pattern(pattern: str) -> Tokenizer:
    """Byte-level, cut by a pattern first; merges across white space would join what the pattern keeps apart."""
    tokenizer = builders.byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return learned(tokenizer)


def learned(tokenizer: Tokenizer) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([PROSE], trainer)
    return tokenizer


def gpt2() -> Tokenizer:
    tokenizer = builders.byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return learned(tokenizer)


def prefixing() -> Tokenizer:
    tokenizer = builders.byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return learned(tokenizer)


def metaspace() -> Tokenizer:
    tokenizer = builders.pieces()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


@given(st.text(alphabet="ab \n日\u0301.", max_size=80), st.integers(2, 12))
def test_pieces_are_the_text_and_not_longer_than_asked(text: str, limit: int) -> None:
    places = list(cut_text(text, limit))
    assert "".join(text[start:end] for start, end in places) == text
    assert all(0 < end - start <= limit for start, end in places) or not text
    assert places[0][0] == 0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(places))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("one two three", ["one two", " three"]),  # before a single space between letters
        ("abcde, 2.  three", ["abcde,", " 2.  three"]),  # before any single space
        ("eins.\nzwei...", ["eins.\n", "zwei..."]),  # after a line
        ("一二三四五六七八九十一", ["一二三四五六七八九十", "一"]),  # anywhere
        ("short", ["short"]),
        ("", [""]),
    ],
)
def test_the_best_place_is_taken(text: str, pieces: list[str]) -> None:
    assert [text[start:end] for start, end in cut_text(text, 10)] == pieces


KINDS = [gpt2, lambda: with_pattern(LLAMA_3), prefixing, metaspace, builders.composing, builders.pieces, builders.words]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_bytes_of_pieces_are_those_of_the_whole(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = OurTokenizer.load(builders.save(kind(), tmp_path))
    (whole,) = tokenizer.encode([Document("key", PROSE)])
    monkeypatch.setattr(texts, "cut_text", lambda text: cut_text(text, 50))
    monkeypatch.setattr(texts, "GROUP_CHARACTERS", 120)
    heard: list[int] = []
    (cut,) = tokenizer.encode([Document("key", PROSE)], done=heard.append)
    assert isinstance(whole, TokenizedDocument)
    assert isinstance(cut, TokenizedDocument)
    assert cut.ids.tolist() == whole.ids.tolist()
    # (a space that the tokenizer puts before a text borrows the byte of the first letter)
    shifted = np.cumsum(cut.num_bytes, dtype=np.int64) - np.cumsum(whole.num_bytes, dtype=np.int64)
    assert set(shifted.tolist()) <= ({0, 1} if kind is builders.pieces else {0})
    assert int(cut.num_bytes.sum()) == len(PROSE.encode())
    assert cut.findings == whole.findings
    assert len(heard) >= len(PROSE) // 170


def test_a_token_of_many_bytes_widens_the_counts(tmp_path: Path) -> None:
    tokenizer = OurTokenizer.load(builders.save(builders.words(), tmp_path, unk_token="<unk>"))
    (encoded,) = tokenizer.encode([Document("key", "the" + " " * 300 + "cat" + " " * 70_000 + "sat" + " " * 70_000)])
    assert isinstance(encoded, TokenizedDocument)
    assert encoded.num_bytes.tolist() == [3, 303, 70_003, 70_000]
    assert encoded.num_bytes.dtype == np.uint32
