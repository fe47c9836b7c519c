"""What reading accepts and refuses, and the JSON that is written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import files
from pipeline.errors import DamagedDataError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_json_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.json"
    files.write_json(path, value)
    assert files.read_json(path) == value
    assert json.loads(files.canonical_json(value)) == value


def test_a_file_name_that_is_not_utf8_survives_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    files.write_json(tmp_path / "report.json", {"key": name})
    assert files.read_json(tmp_path / "report.json") == {"key": name}
    (tmp_path / "report.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_json_does_not_have_are_not_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "a.json", {"a": [value]})
    with pytest.raises(ValueError, match="JSON compliant"):
        files.canonical_json({"a": [value]})
    assert not list(tmp_path.iterdir())


def test_canonical_json_is_one_byte_string() -> None:
    one = {"b": [1, 2.5, None, True], "a": {"ü": "\n", "z": -0.0}}
    other = {"a": {"z": -0.0, "ü": "\n"}, "b": (1, 2.5, None, True)}
    assert files.canonical_json(one) == files.canonical_json(other)
    assert files.canonical_json(one) == b'{"a":{"z":-0.0,"\\u00fc":"\\n"},"b":[1,2.5,null,true]}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b'{"a": 1, "a": 2}',
        b'{"deep": {"a": 1, "a": 1}}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a": ' + b"9" * 10_000 + b"}",
        b'{"a": "\xff"}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": 1} trailing',
    ],
    ids=[
        "empty", "cut short", "a list", "null", "a key twice", "a key twice, deep", "NaN", "infinity", "beyond float64",
        "too deep", "too many digits", "not UTF-8", "UTF-16", "more after it",
    ],
)  # fmt: skip
def test_what_is_not_a_sound_json_object_is_damage(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "seal.json"
    path.write_bytes(data)
    with pytest.raises(DamagedDataError, match=f"^{path}: "):
        files.read_json(path)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with open(path, "wb") as file:
        file.truncate(files.MAX_JSON_BYTES + 1)
    with pytest.raises(DamagedDataError, match=r"67,108,865 bytes where at most 67,108,864 were expected"):
        files.read_json(path)
    path.write_bytes(b"{}" + b" " * 8)
    assert files.read_json(path, max_bytes=10) == {}
    assert files.read_bytes(path) == b"{}" + b" " * 8
    with pytest.raises(DamagedDataError, match="10 bytes where at most 9"):
        files.read_json(path, max_bytes=9)
