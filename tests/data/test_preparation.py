"""From a config's data section to sequences, as the caching stage calls it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data import texts
from pipeline.data.packing import Mode
from pipeline.data.pieces import cut_text
from pipeline.data.preparation import prepare_sequences
from pipeline.data.sequences import TRAIN, VALIDATION, Sequences
from pipeline.data.settings import DataSettings
from pipeline.data.splits import is_held_out
from pipeline.data.tokenizer import Tokenizer
from pipeline.errors import ConfigError
from pipeline.pause import PausedError, PauseRequest
from tests.data import builders


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    return Tokenizer.load(builders.save(builders.byte_level(), folder, builders.PLAIN_TEMPLATE))


def settings_for(path: Path, source: str = "text", **values: Any) -> DataSettings:
    return DataSettings(source=source, path=str(path), sequence_length=32, **values)  # type: ignore[arg-type]


def same(one: Sequences, other: Sequences) -> bool:
    names = ("input_ids", "loss_mask", "document_starts", "split", "num_bytes")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def texts_of(sequences: Sequences, tokenizer: Tokenizer, split: int) -> list[str]:
    """Documents read back from packed rows: all ids in a line, cut at the end-of-text id."""
    rows = sequences.input_ids[sequences.split == split]
    line = np.append(rows[:, :-1].ravel(), rows[-1, -1])
    return [text for text in tokenizer.decode(line).split("<|endoftext|>") if text]


def test_every_text_is_in_the_split_its_name_says(texts_folder: Path, tokenizer: Tokenizer) -> None:
    settings = settings_for(texts_folder, validation_fraction=0.3)
    sequences, report = prepare_sequences(settings, tokenizer, "packed")
    for split in (TRAIN, VALIDATION):
        expected = [
            path.read_text(encoding="utf-8")
            for path in texts_folder.iterdir()
            if is_held_out(path.name, 0.3) == (split == VALIDATION)
        ]
        assert sorted(texts_of(sequences, tokenizer, split)) == sorted(expected)
    assert (np.diff(sequences.split.astype(int)) >= 0).all()
    assert report.documents_read == report.documents_kept == 24


def test_counts_agree_with_the_arrays(texts_folder: Path, tokenizer: Tokenizer) -> None:
    sequences, report = prepare_sequences(settings_for(texts_folder), tokenizer, "packed")
    texts = [path.read_text(encoding="utf-8") for path in texts_folder.iterdir()]
    assert report.num_characters == sum(len(text) for text in texts)
    assert report.num_bytes == sum(len(text.encode()) for text in texts)
    assert report.num_tokens == report.num_bytes + len(texts) == report.train.tokens + report.validation.tokens
    for split, counts in ((TRAIN, report.train), (VALIDATION, report.validation)):
        rows = sequences.select(np.flatnonzero(sequences.split == split))
        assert (counts.sequences, counts.scored_positions) == (rows.num_sequences, rows.num_scored)
        assert counts.scored_positions == counts.tokens - counts.documents
    padding = (sequences.input_ids == tokenizer.end_of_text_id).sum() - len(texts)
    assert 0 <= report.padding_share - padding / sequences.input_ids.size < 1e-3
    assert report.document_tokens["min"] <= report.document_tokens["median"] <= report.document_tokens["max"]


@pytest.mark.parametrize("packing", ["packed", "one_document"])
def test_every_row_begins_as_the_tokenizer_begins_a_text(packing: Mode, texts_folder: Path, tmp_path: Path) -> None:
    """Its labels are the same ones as without; a plan of before is packed as it was."""
    tokenizer = Tokenizer.load(builders.save(builders.byte_level(begin=True), tmp_path, bos_token="<s>"))
    [begin] = tokenizer.start_ids
    now, report = prepare_sequences(settings_for(texts_folder), tokenizer, packing)
    before, _ = prepare_sequences(settings_for(texts_folder), tokenizer, packing, packing_version=4)
    assert (now.input_ids[:, 0] == begin).all()
    assert (before.input_ids[:, 0] != begin).any()
    found, expected = (sorted(rows.input_ids[:, 1:][rows.loss_mask].tolist()) for rows in (now, before))
    assert found == expected
    assert int(now.num_bytes.sum()) == int(before.num_bytes.sum()) == report.num_bytes


def test_bytes_are_those_of_the_scored_labels(texts_folder: Path, tokenizer: Tokenizer) -> None:
    sequences, _ = prepare_sequences(settings_for(texts_folder), tokenizer, "packed")
    labels = sequences.input_ids[:, 1:]
    expected = ((labels != tokenizer.end_of_text_id) & sequences.loss_mask).sum(axis=1)
    assert sequences.num_bytes.tolist() == expected.tolist()


def test_the_same_settings_give_the_same_sequences_anywhere(
    texts_folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    for path in sorted(texts_folder.iterdir(), reverse=True):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    here, _ = prepare_sequences(settings_for(texts_folder), tokenizer, "packed")
    there, _ = prepare_sequences(settings_for(tmp_path), tokenizer, "packed")
    assert same(here, there)
    other_seed, _ = prepare_sequences(settings_for(texts_folder, seed=1), tokenizer, "packed")
    assert not same(here, other_seed)


def test_one_document_a_row(texts_folder: Path, tokenizer: Tokenizer) -> None:
    sequences, report = prepare_sequences(settings_for(texts_folder), tokenizer, "one_document")
    inner_starts = sequences.document_starts[:, 1:]
    assert (inner_starts.sum(axis=1) <= 1).all()  # of the padding, at most
    after = np.logical_or.accumulate(inner_starts, axis=1)
    assert (sequences.input_ids[:, 1:][after] == tokenizer.end_of_text_id).all()
    assert not sequences.loss_mask[after].any()
    assert report.padding_share > 0


def test_limits_are_kept(texts_folder: Path, tokenizer: Tokenizer) -> None:
    _, few = prepare_sequences(settings_for(texts_folder, max_documents=5), tokenizer, "packed")
    assert few.documents_read == few.documents_kept == 5
    _, limited = prepare_sequences(settings_for(texts_folder, max_tokens=1000), tokenizer, "packed")
    longest = limited.document_tokens["max"]
    assert 1000 - longest < limited.train.tokens < 1000 + longest
    assert limited.documents_kept < 24
    assert limited.train.tokens == 1000


def test_the_last_text_is_cut_at_the_limit(texts_folder: Path, tokenizer: Tokenizer) -> None:
    whole, _ = prepare_sequences(settings_for(texts_folder), tokenizer, "one_document")
    limited, report = prepare_sequences(settings_for(texts_folder, max_tokens=1000), tokenizer, "one_document")
    texts, known = (texts_of(rows, tokenizer, TRAIN) for rows in (limited, whole))
    (cut,) = [text for text in texts if text not in known]
    (long,) = [text for text in known if text.startswith(cut)]
    assert report.num_characters_beyond == len(long) - len(cut) > 0
    assert report.num_bytes == report.num_tokens - report.documents_kept
    assert report.max_tokens_reached
    said = f"cut at data.max_tokens: the last document, by {report.num_characters_beyond:,} characters"
    assert said in report.summary_lines()
    labels, mask = limited.input_ids[:, 1:], limited.loss_mask
    num_whole = report.documents_kept - 1  # each of these teaches that its text ends, and the one that is cut does not
    assert np.count_nonzero((labels == tokenizer.end_of_text_id) & mask) == num_whole


@pytest.mark.parametrize("name", ["book.txt", "0.txt", "1.txt", "2.txt"])
def test_of_one_huge_text_no_more_is_encoded_than_the_limit_asks(
    name: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Whether its name holds it out or not; its end is held out in any case."""
    size = 5_000_000
    (tmp_path / name).write_text("Größe of it. " * (size // 14))
    heard: list[int] = []
    real = tokenizer.encode

    class Counting:
        def __getattr__(self, attribute: str) -> Any:
            return getattr(tokenizer, attribute)

        def encode(self, documents: Any, done: Any, most_ids: Any) -> Any:
            def both(count: int) -> None:
                heard.append(count)
                done(count)

            return real(documents, done=both, most_ids=most_ids)

    settings = settings_for(tmp_path / name, max_tokens=100_000, validation_fraction=0.2)
    sequences, report = prepare_sequences(settings, Counting(), "packed")  # type: ignore[arg-type]
    assert report.train.tokens + report.validation.tokens == 100_001
    assert report.validation.tokens == 20_000
    assert sum(heard) < 0.3 * size
    assert report.num_characters + report.num_characters_beyond == len("Größe of it. ") * (size // 14)
    again, _ = prepare_sequences(settings, tokenizer, "packed")
    assert same(sequences, again)


def test_a_huge_text_that_is_held_out_counts(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Two files, of which the hash holds out the huge one: there is no more training text than asked for."""
    held_out = next(name for name in (f"{number}.txt" for number in range(99)) if is_held_out(name, 0.1))
    other = next(name for name in (f"{number}.txt" for number in range(99)) if not is_held_out(name, 0.1))
    (tmp_path / held_out).write_text("All of it in one file. " * 50_000)
    (tmp_path / other).write_text("A little. " * 100)
    settings = settings_for(tmp_path, max_tokens=200_000, validation_fraction=0.1)
    _, report = prepare_sequences(settings, tokenizer, "packed")
    assert 175_000 < report.train.tokens <= 200_000
    assert 15_000 < report.validation.tokens < 25_000


@pytest.mark.parametrize("max_tokens", [1, 2])
def test_a_limit_too_small_for_one_label_leaves_nothing(
    max_tokens: int, texts_folder: Path, tokenizer: Tokenizer
) -> None:
    with pytest.raises(ConfigError, match="none is usable"):
        prepare_sequences(settings_for(texts_folder, max_tokens=max_tokens), tokenizer, "packed")


def test_a_separator_makes_documents(tokenizer: Tokenizer, tmp_path: Path) -> None:
    pieces = [f"Text number {number}." for number in range(40)]
    (tmp_path / "all.txt").write_text("<|endoftext|>" + "<|endoftext|>".join(pieces) + "<|endoftext|>\n")
    settings = settings_for(tmp_path / "all.txt", document_separator="<|endoftext|>", validation_fraction=0.2)
    sequences, report = prepare_sequences(settings, tokenizer, "packed")
    assert (report.documents_read, report.documents_kept, report.num_control_spelled) == (40, 40, 0)
    for split in (TRAIN, VALIDATION):
        expected = [
            piece
            for number, piece in enumerate(pieces, start=1)
            if is_held_out(f"all.txt:{number}", 0.2) == (split == VALIDATION)
        ]
        assert sorted(texts_of(sequences, tokenizer, split)) == sorted(expected)


def test_chats_end_to_end(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows: list[Any] = [
        {"chat": [{"role": "user", "content": f"number {n}?"}, {"role": "assistant", "content": f"It is {n}."}]}
        for n in range(20)
    ]
    path = builders.write_lines(tmp_path / "chats.jsonl", [*rows, {"chat": rows[0]["chat"][:1]}, {"other": 1}])
    sequences, report = prepare_sequences(
        settings_for(path, "jsonl", messages_column="chat", validation_fraction=0.2), tokenizer, "packed"
    )
    said = tokenizer.decode(sequences.input_ids[:, 1:][sequences.loss_mask])
    assert sorted(said.split("<|im_end|>\n")[:-1]) == sorted(f"It is {n}." for n in range(20))
    assert {reason: dropped.count for reason, dropped in report.dropped.items()} == {
        "without a message of the assistant": 1,
        "has no column 'chat'": 1,
    }


def test_many_dropped_documents_are_said(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = builders.write_lines(tmp_path / "rows.jsonl", [{"text": text} for text in ("one", "two", "", "one")])
    prepare_sequences(settings_for(path, "jsonl"), tokenizer, "packed")
    said = capsys.readouterr().err
    assert "2 of 4 documents (50%) are dropped:\n  1 duplicate: rows.jsonl:4\n  1 empty: rows.jsonl:3\n" in said


def test_unknown_tokens_are_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = Tokenizer.load(builders.save(builders.words(), tmp_path / "words", unk_token="<unk>"))
    path = builders.write_lines(tmp_path / "rows.jsonl", [{"text": "the cat"}, {"text": "the dog"}])
    _, report = prepare_sequences(settings_for(path, "jsonl"), words, "packed")
    assert (report.num_unknown_tokens, report.num_tokens) == (1, 6)
    assert "16.7% of the tokens are the unknown token" in capsys.readouterr().err


def test_a_single_text_file_goes_through(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("All of it in one file. " * 40)
    sequences, report = prepare_sequences(settings_for(tmp_path / "book.txt"), tokenizer, "packed")
    assert set(sequences.split.tolist()) == {TRAIN, VALIDATION}
    assert (report.documents_kept, report.train.documents, report.validation.documents) == (1, 1, 1)


def test_the_standard_library_goes_through(tokenizer: Tokenizer) -> None:
    settings = DataSettings(source="stdlib", max_documents=30, validation_fraction=0.2)
    sequences, report = prepare_sequences(settings, tokenizer, "packed")
    assert report.documents_read == 30
    assert report.num_bytes == report.num_tokens - report.documents_kept
    assert set(sequences.split.tolist()) == {TRAIN, VALIDATION}


def test_nothing_usable_is_a_config_error_with_the_reasons(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = builders.write_lines(tmp_path / "rows.jsonl", [{"body": "x"}, {"text": " "}])
    with pytest.raises(ConfigError, match=r"of 2 read none is usable:\n  1 empty: .*\n  1 has no column 'text'"):
        prepare_sequences(settings_for(path, "jsonl"), tokenizer, "packed")
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(
        ConfigError, match=r"of 0 read none is usable:\n  nothing at all\nCheck data\.path, data\.text_column"
    ):
        prepare_sequences(settings_for(tmp_path / "none.jsonl", "jsonl"), tokenizer, "packed")


def test_nothing_usable_in_a_folder_in_place_of_a_hub_dataset(tokenizer: Tokenizer, tmp_path: Path) -> None:
    builders.write_lines(tmp_path / "train.jsonl", [{"text": ""}])
    settings = DataSettings(source="hub", dataset=str(tmp_path), path="elsewhere")
    with pytest.raises(ConfigError, match=rf"hub \({tmp_path}\): [\s\S]*Check data\.dataset, data\.text_column"):
        prepare_sequences(settings, tokenizer, "packed")


def test_a_split_without_a_scored_label_is_a_config_error(tokenizer: Tokenizer, tmp_path: Path) -> None:
    chat = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "goodbye " * 9},
    ]
    path = builders.write_lines(tmp_path / "chats.jsonl", [{"chat": chat}])
    with pytest.raises(
        ConfigError, match=r"the validation split has no label that counts \(documents: 1, tokens: \d+\)"
    ):
        prepare_sequences(settings_for(path, "jsonl", messages_column="chat"), tokenizer, "packed")


def test_a_pause_is_seen_between_batches(texts_folder: Path, tokenizer: Tokenizer) -> None:
    with PauseRequest() as pause:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(PausedError, match="SIGTERM was received"):
            prepare_sequences(settings_for(texts_folder), tokenizer, "packed", pause)


def test_a_pause_is_seen_in_the_middle_of_one_long_text(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "GROUP_CHARACTERS", 1000)
    monkeypatch.setattr(texts, "cut_text", lambda text: cut_text(text, 500))
    (tmp_path / "book.txt").write_text("All of it in one file. " * 400)
    asked = []

    class Later(PauseRequest):
        def check(self) -> None:
            asked.append(1)
            if len(asked) == 4:
                raise PausedError("SIGTERM was received")

    with pytest.raises(PausedError):
        prepare_sequences(settings_for(tmp_path / "book.txt"), tokenizer, "packed", Later())
    assert len(asked) == 4
