"""eval.json there and back, and the table people read."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.errors import DamagedDataError
from pipeline.evaluation.summary import (
    EvalResult,
    columns_of,
    gain_of,
    load_result,
    remarks_on,
    row_title,
    save_result,
    summary_table,
)
from tests.evaluation.stories import make_result, make_row


def printed(result: EvalResult, width: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(summary_table(result))
    return stream.getvalue()


def test_json_there_and_back(tmp_path: Path) -> None:
    path, result = tmp_path / "eval" / "eval.json", make_result()
    save_result(path, result)
    assert load_result(path) == result
    value = json.loads(path.read_text())
    assert value["format"] == 1
    assert value["data"] == {"num_sequences": 512, "num_positions": 120_331, "num_bytes": 410_221}
    assert set(value["rows"][0]) == {
        "name", "kind", "weights", "folder", "cross_entropy_nats", "perplexity", "perplexity_capped", "bits_per_byte",
        "kl_bucket_nats", "kl_exact_nats", "top1_agreement", "tokens_per_second", "peak_memory_bytes", "memory_kind",
        "step", "num_steps", "training_hash", "leaks_documents",
    }  # fmt: skip
    assert value["samples"][0].keys() == {"prompt", "reference", "continuations"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "expected eval format 1, found 2"),
        ({"rows": [{"name": "x"}]}, "a field is missing or unknown"),
        ({"data": None}, "a field is missing or unknown"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "eval.json"
    path.write_text(json.dumps(make_result().to_json() | change))
    with pytest.raises(DamagedDataError, match=message):
        load_result(path)


def test_a_figure_that_has_changed_is_refused_and_an_older_file_is_read(tmp_path: Path) -> None:
    path, result = tmp_path / "eval.json", make_result()
    value = result.to_json()
    del value["digest"]
    path.write_text(json.dumps(value))
    assert load_result(path) == result
    save_result(path, result)
    nats = f"{result.rows[0].cross_entropy_nats}"
    path.write_text(path.read_text().replace(nats, nats.replace("3", "4", 1), 1))
    with pytest.raises(DamagedDataError, match=r"does not have the digest it names\. Run `sad-pipeline eval` again"):
        load_result(path)


def test_one_that_is_cut_off_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    path.write_text(json.dumps(make_result().to_json())[:-9])
    with pytest.raises(DamagedDataError, match=r"eval\.json: is not .*\. Run `sad-pipeline eval` again to replace it"):
        load_result(path)


def cells(result: EvalResult) -> dict[str, list[str]]:
    return {column.heading: [column.cell(row) for row in result.rows] for column in columns_of(result)}


def test_exact_and_lower_bound_are_never_in_one_column() -> None:
    found = cells(make_result())
    assert found["KL to teacher, nats (from the cache)"] == ["", "0.6980", "0.6950", "0.9800", "5.1000"]
    assert found["KL to teacher, nats (exact)"] == ["", "0.7120", "0.7090", "1.0100", "5.2000"]
    only_bound = dataclasses.replace(make_result(), rows=(make_row("a", "student", 4.0, kl_bucket_nats=0.5),))
    assert "KL to teacher, nats (exact)" not in cells(only_bound)


def test_memory_of_card_and_process_are_never_in_one_column() -> None:
    rows = (
        make_row("a", "student", 4.0, peak_memory_bytes=2**30, memory_kind="gpu"),
        make_row("b", "baseline", 4.0, peak_memory_bytes=2**31, memory_kind="process"),
    )
    found = cells(dataclasses.replace(make_result(), rows=rows))
    assert found["peak GPU memory, GiB"] == ["1.00", ""]
    assert found["peak process memory, GiB"] == ["", "2.00"]


def test_a_capped_perplexity_is_marked() -> None:
    result = dataclasses.replace(make_result(), rows=(make_row("lost", "student", 31.0),))
    assert cells(result)["perplexity"] == ["≥ 485,165,195"]


def test_row_titles() -> None:
    assert [row_title(row) for row in make_result().rows] == [
        "teacher", "student (raw)", "student (EMA)", "labels only", "initial student",
    ]  # fmt: skip


def test_the_terminal_table_shows_every_figure() -> None:
    text = printed(make_result(), width=200)
    for figure in ("120,331 scored positions", "4.2750", "71.88", "0.6950", "0.7090", "44.3%", "8,123", "1.30"):
        assert figure in text


def test_no_heading_or_figure_is_broken_at_80_characters() -> None:
    text = printed(make_result(), 80)
    for word in ("nats", "bits/B", "KL cached", "top-1", "tok/s", "4,964", "0.6950", "from the cache"):
        assert word in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_terminal_table_fits(width: int) -> None:
    assert max(map(len, printed(make_result(), width).splitlines())) <= width


def test_gain_over_the_best_baseline() -> None:
    gain = gain_of(make_result())
    assert gain is not None
    assert row_title(gain.student) == "student (EMA)"
    assert gain.nats == pytest.approx(4.525 - 4.275)
    assert gain.gap_closed == pytest.approx(0.25 / (4.525 - 3.312))


def test_gain_that_is_none() -> None:
    result = make_result(student_nats=4.8)
    gain = gain_of(result)
    assert gain is not None
    assert gain.nats < 0
    assert gain.gap_closed is None
    assert gain_of(dataclasses.replace(result, rows=result.rows[:3])) is None


def test_a_name_that_looks_like_markup_is_shown_as_it_is() -> None:
    result = make_result()
    rows = (*result.rows, make_row("labels [lr 2e-3] [/x]", "baseline", 4.5))
    assert "labels [lr 2e-3] [/x]" in " ".join(printed(dataclasses.replace(result, rows=rows), 140).split())


def test_remarks_are_made_only_where_there_is_something_to_remark() -> None:
    result = make_result()
    assert remarks_on(result) == []
    rows = (
        dataclasses.replace(make_row("student", "student", 4.0, "raw"), step=10, num_steps=40),
        dataclasses.replace(make_row("opt", "baseline", 4.5), leaks_documents=True),
    )
    unfinished = dataclasses.replace(result, rows=rows)
    text = " ".join(printed(unfinished, 80).split())
    assert "opt †" in text
    assert "† This model sees the documents before its own" in text
    assert "The student was measured at step 10 of 40: its training is not finished." in text
    finished = dataclasses.replace(rows[0], step=40)
    assert remarks_on(dataclasses.replace(result, rows=(finished,))) == []
