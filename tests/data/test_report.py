"""The data report: JSON there and back, and lines for people."""

from __future__ import annotations

import json

import pytest

from pipeline.data.report import DataReport, SplitCounts
from pipeline.errors import DamagedDataError


def make_report() -> DataReport:
    report = DataReport(documents_read=9, documents_kept=2, num_characters=40, num_bytes=44, num_tokens=11)
    for number in range(6):
        report.drop(f"{number}.txt", "empty")
    report.drop("x.txt", "duplicate")
    report.document_tokens = {"min": 3, "median": 5, "max": 6}
    report.num_unknown_tokens = 1
    report.num_uncovered_characters = 2
    report.num_control_spelled, report.num_control_ids = 3, 1
    report.num_characters_beyond, report.num_turns_unscored = 1234, 5
    report.train = SplitCounts(1, 6, 2, 5)
    report.validation = SplitCounts(1, 5, 1, 4)
    report.padding_share = 0.125
    return report


def test_json_there_and_back() -> None:
    report = make_report()
    assert DataReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    assert DataReport.from_json(DataReport().to_json()) == DataReport()


@pytest.mark.parametrize(
    "damage",
    [
        {"dropped": 3},
        {"train": {"no": 1}},
        {"unheard_of": 1},
        {"train": {"documents": [1], "tokens": 1, "sequences": 1, "scored_positions": 1}},
        {"dropped": {"short": {"count": 1, "examples": [3]}}},
        {"num_tokens": 10**400},
        {"num_tokens": 1.5},
        {"num_tokens": True},
        {"message_fields": {"name": "3"}},
        {"padding_share": "0.1"},
    ],
)
def test_anything_else_is_damage(damage: dict[str, object]) -> None:
    with pytest.raises(DamagedDataError, match="not one this version wrote"):
        DataReport.from_json(make_report().to_json() | damage)


def test_no_figure_of_it_changes_unnoticed() -> None:
    with pytest.raises(DamagedDataError, match="does not have the digest it names"):
        DataReport.from_json(make_report().to_json() | {"documents_kept": 3})


def test_lines_name_every_reason_and_a_few_keys() -> None:
    assert make_report().summary_lines() == [
        "9 documents read, 2 kept, 7 dropped",
        "  6 empty: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, …",
        "  1 duplicate: x.txt",
        "text: 40 characters, 44 bytes, 11 tokens",
        "tokens a document: min 3, median 5, max 6",
        "unknown tokens: 9.09%",
        "cut at data.max_tokens: the last document, by 1,234 characters",
        "characters that no token spells: 2 (5.00%)",
        "control tokens spelled in the text: 3; 1 became the control token, the others are text like any other",
        "turns of the assistant not scored, which the template rewrites: 5",
        "train: 1 documents, 6 tokens, 2 sequences, 5 scored positions",
        "validation: 1 documents, 5 tokens, 1 sequences, 4 scored positions",
        "padding: 12.50% of all ids",
    ]


def test_an_empty_report_divides_by_nothing() -> None:
    assert DataReport().unknown_share == 0.0
    assert DataReport().summary_lines()[0] == "0 documents read, 0 kept, 0 dropped"


def test_what_was_read_and_not_needed_is_counted() -> None:
    report = DataReport(documents_read=12, documents_kept=4)
    assert report.summary_lines()[0] == "12 documents read, 4 kept, 0 dropped, 8 beyond data.max_tokens"
