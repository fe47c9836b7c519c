"""A tokenizer as a cache keeps it: whoever reads it runs none of its code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.data.planned_tokenizer import planned_tokenizer, publish_tokenizer
from pipeline.data.tokenizer import Tokenizer
from pipeline.errors import ConfigError
from tests import tiny

CODE = """\
from transformers import PreTrainedTokenizerFast


class Own(PreTrainedTokenizerFast):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
"""


def with_code(folder: Path) -> Tokenizer:
    """A tokenizer of a class of its own, loaded by somebody who trusts it."""
    tiny.save_tokenizer(folder)
    (folder / "own.py").write_text(CODE)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    path.write_text(json.dumps(settings))
    return Tokenizer.load(folder, trust_remote_code=True)


def test_of_one_with_code_of_its_own_the_plain_one_is_kept(tmp_path: Path) -> None:
    tokenizer = with_code(tmp_path / "own")
    publish_tokenizer(tokenizer, tmp_path / "kept")
    assert not list((tmp_path / "kept").glob("*.py"))
    kept = planned_tokenizer(tmp_path / "kept", tokenizer.fingerprint())
    assert kept.fingerprint() == tokenizer.fingerprint()


def test_one_with_code_of_its_own_and_ids_beyond_the_teachers_rows(tmp_path: Path) -> None:
    tokenizer = with_code(tmp_path / "own")
    fewer = tokenizer.within(tokenizer.vocab_size - 1)
    assert fewer.vocab_size == tokenizer.vocab_size - 1
    publish_tokenizer(fewer, tmp_path / "kept")
    assert planned_tokenizer(tmp_path / "kept", fewer.fingerprint()).vocab_size == fewer.vocab_size


def test_several_chat_templates_are_kept(tmp_path: Path) -> None:
    tiny.save_tokenizer(tmp_path / "own")
    path = tmp_path / "own" / "tokenizer_config.json"
    templates = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": templates}))
    tokenizer = Tokenizer.load(tmp_path / "own")
    publish_tokenizer(tokenizer, tmp_path / "kept")
    assert planned_tokenizer(tmp_path / "kept", tokenizer.fingerprint()).fingerprint() == tokenizer.fingerprint()
    assert all(path.is_file() for path in (tmp_path / "kept").iterdir())


def test_one_that_needs_its_code_is_refused_before_there_is_a_cache(tmp_path: Path) -> None:
    """Whose files, without the code, end a text with another token."""
    tokenizer = with_code(tmp_path / "own")

    def files_of_it(folder: Path) -> None:
        tiny.save_tokenizer(folder)
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {}, "eos_token": "<|im_end|>"}))

    tokenizer.save = files_of_it  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"has code of its own, and without it does not do the same"):
        publish_tokenizer(tokenizer, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
