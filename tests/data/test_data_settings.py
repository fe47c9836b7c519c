"""The data section: what a source needs, and what it has no use for, is said."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config import parse_config
from pipeline.data.settings import DataSettings
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"source": "stdlib", "path": "my-texts/"}, "path"),
        ({"source": "stdlib", "text_column": "content"}, "text_column"),
        ({"source": "text", "path": "a", "text_column": "content"}, "text_column"),
        ({"source": "text", "path": "a", "dataset": "x/y"}, "dataset"),
        ({"source": "jsonl", "path": "a", "subset": "en"}, "subset"),
        ({"source": "jsonl", "path": "a", "revision": "main"}, "revision"),
        ({"source": "parquet", "path": "a", "dataset_split": "test"}, "dataset_split"),
        ({"source": "hub", "dataset": "x/y", "path": "a"}, "path"),
    ],
)
def test_a_key_that_would_do_nothing_is_refused(values: dict[str, Any], name: str) -> None:
    """Or a text would be learned that nobody meant."""
    with pytest.raises(ConfigError, match=f"data.{name} has no meaning for the source '{values['source']}'"):
        parse_config(DataSettings, values, where="here")


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
