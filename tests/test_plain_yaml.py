"""YAML's traps: numbers, dates, booleans, repeated keys; and back again."""

from __future__ import annotations

import time
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.plain_yaml import MAX_DEPTH, dump_yaml, load_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E6", 1e6),
        ("-2.5e+3", -2500.0),
        ("3e-3", 3e-3),
        ("1_000", 1000),
        ("0.5", 0.5),
        ("'1e-4'", "1e-4"),
        ("2024-01-01", "2024-01-01"),
        ("~", None),
        ("null", None),
        ("", None),
        ("no", False),
        ("'no'", "no"),
        ("[1, 2e0, x]", [1, 2.0, "x"]),
        ("e4", "e4"),
        ("1e4x", "1e4x"),
    ],
)
def test_yaml_reads_what_is_meant(text: str, value: Any) -> None:
    found = load_yaml(text)
    assert found == value
    assert type(found) is type(value)


def test_merged_groups_are_no_repetition() -> None:
    assert load_yaml("base: &b {x: 1, y: 2}\nmore: {<<: *b, y: 3}") == {
        "base": {"x": 1, "y": 2},
        "more": {"x": 1, "y": 3},
    }


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"))
    | st.from_regex(r"[-+]?[0-9]{1,3}(\.[0-9]{0,2})?[eE][-+]?[0-9]{1,2}|[0-9]{4}-[0-9]{2}-[0-9]{2}", fullmatch=True),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(plain_values)
@example({"\x85": "a\u2028b"})
def test_yaml_comes_back_as_it_was(value: Any) -> None:
    assert load_yaml(dump_yaml(value)) == value


@pytest.mark.parametrize(
    "text", ["a: 1\na: 2", "{b: {a: 1, a: 2}}", "1: x", "no: x", "? [1]\n: x", "!!python/name:os.system x"]
)
def test_what_could_be_misread_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)


def test_depth_is_refused_where_it_begins() -> None:
    """Whatever comes behind it: brackets cost the scanner time that grows with their square."""
    assert load_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert len(load_yaml("- [[a]]\n" * 3 * MAX_DEPTH)) == 3 * MAX_DEPTH  # beside each other is no depth
    with pytest.raises(yaml.YAMLError, match=f"more than {MAX_DEPTH} levels"):
        load_yaml("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))
    began = time.process_time()
    with pytest.raises(yaml.YAMLError, match=f"more than {MAX_DEPTH} levels"):
        load_yaml("[" * 100_000)
    assert time.process_time() - began < 2


def test_aliases_that_nest_are_refused_as_brackets_are() -> None:
    lines = ["a0: &a0 [x]", *(f"a{depth}: &a{depth} [*a{depth - 1}]" for depth in range(1, MAX_DEPTH + 1))]
    with pytest.raises(yaml.YAMLError, match=f"more than {MAX_DEPTH} levels"):
        load_yaml("\n".join(lines))
