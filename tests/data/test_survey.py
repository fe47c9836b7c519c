"""The size of a text, told from its beginning, against the whole of it prepared."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.data import survey as survey_module
from pipeline.data.documents import expected_documents
from pipeline.data.json_rows import count_json_rows
from pipeline.data.packing import Mode
from pipeline.data.preparation import prepare_sequences
from pipeline.data.settings import DataSettings
from pipeline.data.survey import COUNTED, FROM_BYTES, FROM_DOCUMENTS, FROM_LIMIT, survey
from pipeline.data.tokenizer import Tokenizer
from pipeline.errors import ConfigError
from tests import tiny
from tests.data import builders

SAMPLE_TOKENS = 20_000
NUM_TEXTS = 300


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(builders.save(builders.byte_level(), tmp_path_factory.mktemp("tokenizer"), None))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of 400 characters, and one that is dropped."""
    folder = tiny.write_texts(tmp_path_factory.mktemp("texts"), NUM_TEXTS // 3)
    for index, path in enumerate(sorted(folder.glob("*.txt"))):
        for copy in range(2):
            path.with_name(f"{index:03d}-{copy}.txt").write_text(f"{copy}{path.read_text(encoding='utf-8')}")
    (folder / "empty.txt").write_text(" \n")
    return folder


@pytest.fixture(scope="module")
def rows(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as JSON lines."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [json.dumps({"text": text.read_text(encoding="utf-8")}) for text in sorted(texts.glob("*.txt"))]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "SAMPLE_TOKENS", SAMPLE_TOKENS)


def settings_for(path: Path, **values: Any) -> DataSettings:
    """Settings of a text or of rows."""
    source: Any = "text" if path.is_dir() else "jsonl"
    return DataSettings(source=source, path=str(path), sequence_length=32, validation_fraction=0.1, **values)


@pytest.mark.parametrize("packing", ["packed", "one_document"])
@pytest.mark.parametrize(("name", "basis"), [("texts", FROM_BYTES), ("rows", FROM_DOCUMENTS)])
def test_a_long_text_is_told_from_its_beginning(
    name: str, basis: str, packing: Mode, tokenizer: Tokenizer, request: pytest.FixtureRequest
) -> None:
    settings = settings_for(request.getfixturevalue(name))
    whole, _ = prepare_sequences(settings, tokenizer, packing)
    found = survey(settings, tokenizer, packing)
    assert found.basis == basis
    assert found.sample.num_sequences < 0.4 * whole.num_sequences
    assert found.num_positions == pytest.approx(whole.num_sequences * 32, rel=0.05)
    assert found.num_train > 5 * found.num_validation


def test_a_short_text_is_counted(texts: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "SAMPLE_TOKENS", 2**20)
    settings = settings_for(texts)
    whole, report = prepare_sequences(settings, tokenizer, "packed")
    found = survey(settings, tokenizer, "packed")
    assert (found.basis, found.sample.num_sequences) == (COUNTED, whole.num_sequences)
    assert (found.num_train, found.num_validation) == (report.train.sequences, report.validation.sequences)


@pytest.mark.parametrize("limits", [{"max_tokens": 9_000}, {"max_tokens": 50_000}, {"max_documents": 150}])
def test_limits_are_kept(limits: dict[str, int], texts: Path, tokenizer: Tokenizer) -> None:
    settings = settings_for(texts, **limits)
    whole, _ = prepare_sequences(settings, tokenizer, "packed")
    found = survey(settings, tokenizer, "packed")
    assert (found.basis == COUNTED) == (limits.get("max_tokens", SAMPLE_TOKENS + 1) <= SAMPLE_TOKENS)
    assert found.num_positions == pytest.approx(whole.num_sequences * 32, rel=0.05)


def test_a_source_of_unknown_size_needs_a_limit(
    rows: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey_module, "expected_documents", lambda settings: None)
    with pytest.raises(ConfigError, match=r"Set data\.max_tokens"):
        survey(settings_for(rows), tokenizer, "packed")
    found = survey(settings_for(rows, max_tokens=100_000), tokenizer, "packed")
    assert found.basis == FROM_LIMIT
    assert found.num_train * 32 == pytest.approx(100_000, rel=0.02)


def one_file(folder: Path, texts: Path, num_copies: int, source: str, between: str = "\n") -> DataSettings:
    """All texts in one file, or in two rows of one, many times over."""
    whole = between.join(path.read_text(encoding="utf-8") for path in sorted(texts.glob("*.txt")))
    whole = between.join(f"{number} {whole}" for number in range(num_copies))
    if source == "text":
        (folder / "all.txt").write_text(whole, encoding="utf-8")
        return DataSettings(source="text", path=str(folder / "all.txt"), sequence_length=32, validation_fraction=0.1)
    path = builders.write_lines(folder / "rows.jsonl", [{"text": f"{number} {whole}"} for number in range(2)])
    return DataSettings(source="jsonl", path=str(path), sequence_length=32, validation_fraction=0.1)


@pytest.mark.parametrize("source", ["text", "jsonl"])
@pytest.mark.parametrize("max_tokens", [None, 15_000, 90_000])
def test_one_huge_document_is_told_from_its_beginning(
    source: str, max_tokens: int | None, texts: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    settings = one_file(tmp_path, texts, 3, source).model_copy(update={"max_tokens": max_tokens})
    whole, _ = prepare_sequences(settings, tokenizer, "packed")
    found = survey(settings, tokenizer, "packed")
    assert (found.basis == COUNTED) == (max_tokens == 15_000)
    assert found.num_positions == pytest.approx(whole.num_sequences * 32, rel=0.05)
    if max_tokens is not None:
        assert whole.num_sequences * 32 < 1.01 * max_tokens


@pytest.mark.parametrize("max_documents", [None, 150])
def test_documents_of_one_file_are_told_from_its_beginning(
    max_documents: int | None, texts: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    settings = one_file(tmp_path, texts, 1, "text", "<|endoftext|>").model_copy(
        update={"document_separator": "<|endoftext|>", "max_documents": max_documents}
    )
    whole, _ = prepare_sequences(settings, tokenizer, "packed")
    found = survey(settings, tokenizer, "packed")
    assert found.basis == FROM_BYTES
    assert found.num_positions == pytest.approx(whole.num_sequences * 32, rel=0.05)


def test_a_packed_text_is_told_by_its_size_unpacked(texts: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    settings = one_file(tmp_path, texts, 3, "text")
    found = survey(settings, tokenizer, "packed")
    (tmp_path / "all.txt.gz").write_bytes(gzip.compress((tmp_path / "all.txt").read_bytes()))
    packed = survey(settings.model_copy(update={"path": str(tmp_path / "all.txt.gz")}), tokenizer, "packed")
    assert (packed.num_train, packed.num_validation) == (found.num_train, found.num_validation)


def test_documents_of_rows_need_a_limit(rows: Path, tokenizer: Tokenizer) -> None:
    settings = settings_for(rows, document_separator="\n", drop_duplicates=False)
    with pytest.raises(ConfigError, match=r"data\.document_separator '\\n': how many .* Set data\.max_tokens"):
        survey(settings, tokenizer, "packed")


def test_a_file_that_cannot_be_unpacked_counts_for_nothing(texts: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """As capture drops it with its reason."""
    whole = tmp_path / "texts"
    shutil.copytree(texts, whole)
    found = survey(settings_for(whole), tokenizer, "packed")
    (whole / "broken.txt.gz").write_bytes(gzip.compress(b"words " * 10_000)[:100])
    broken = survey(settings_for(whole), tokenizer, "packed")
    assert broken.num_train == pytest.approx(found.num_train, rel=0.05)


def test_rows_are_counted_to_the_limit_and_the_last_one_needs_no_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a"}\n' * 200_000 + b'{"text": "a"}')
    assert count_json_rows(path) == 200_001
    assert 10 <= count_json_rows(path, limit=10) < 200_000, "most of it was not read"
    settings = DataSettings(source="jsonl", path=str(path), sequence_length=32, max_documents=10)
    assert expected_documents(settings) == 10
