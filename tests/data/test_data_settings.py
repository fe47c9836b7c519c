"""The data section: what a source needs, and what it has no use for, is said."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config import parse_config
from pipeline.data.settings import DataSettings
from pipeline.errors import ConfigError
from stages.config import load_run_config


def test_the_standard_library_lies_where_it_lies() -> None:
    """Or a text would be learned that nobody meant."""
    with pytest.raises(ConfigError, match=r"not data\.path \(my-texts/\): set data\.source to text, jsonl or parquet"):
        parse_config(DataSettings, {"source": "stdlib", "path": "my-texts/"}, where="here")


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"source": "text", "path": "a"}, []),
        ({"source": "text", "path": "a", "dataset": "x/y", "dataset_split": "test"}, ["dataset", "dataset_split"]),
        ({"source": "parquet", "path": "a", "subset": "en", "revision": "main"}, ["subset", "revision"]),
        ({"source": "hub", "dataset": "x/y", "subset": "en", "path": "a"}, ["path"]),
        ({"source": "text", "path": "a", "text_column": "body"}, ["text_column"]),
        ({"source": "stdlib", "text_column": "body"}, ["text_column"]),
        ({"source": "jsonl", "path": "a", "text_column": "body"}, []),
    ],
)
def test_keys_that_do_nothing_are_known(values: dict[str, Any], names: list[str]) -> None:
    unused = parse_config(DataSettings, values, where="here").unused()
    assert unused == dict.fromkeys(names, f"data.source is {values['source']}")


def test_a_text_column_beside_chats_does_nothing() -> None:
    values = {"source": "jsonl", "path": "a", "text_column": "body", "messages_column": "chat"}
    unused = parse_config(DataSettings, values, where="here").unused()
    assert unused == {"text_column": "data.messages_column is chat"}


def test_keys_that_do_nothing_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    load_run_config("kaggle-t4x2", ("data.path=my-texts.jsonl",))
    assert "data.path is set and not used, for data.source is hub" in capsys.readouterr().err


@pytest.mark.parametrize(
    "values",
    [
        {"source": "stdlib", "path": None, "text_column": "text"},
        {"source": "jsonl", "path": "a", "text_column": "content"},
        {"source": "parquet", "path": "a", "messages_column": "chat", "dataset": None},
        {"source": "hub", "dataset": "x/y", "subset": "en", "dataset_split": "test", "revision": "main"},
    ],
)
def test_what_a_resolved_config_says_is_accepted(values: dict[str, Any]) -> None:
    """Every key is there then, at its default where it was not given."""
    settings = parse_config(DataSettings, values, where="here")
    assert parse_config(DataSettings, settings.model_dump(), where="here") == settings
