"""What the report says of a study: the table, what helps and what hurts, and the words around it."""

from __future__ import annotations

import dataclasses
import html
import re

import pytest

from pipeline.evaluation.markup import Markup
from pipeline.evaluation.study.findings import Comparison, Finding, compare
from pipeline.evaluation.study.results import StudyResult
from pipeline.evaluation.study.statistics import Interval
from pipeline.evaluation.study_section import share_text, study_section, verdict_of, what_differs
from tests.evaluation.stories import HOSTILE
from tests.evaluation.studies import ARMS, SETTING, crowded_study, real_study, study_of_one_seed

MINUS = "\N{MINUS SIGN}"


def plain(section: Markup) -> str:
    """Its words without tags; a row of the table is a line."""
    text = re.sub(r"<svg.*?</svg>", "", section, flags=re.DOTALL)
    text = text.replace("</tr>", "\n").replace("</p>", "\n")
    return html.unescape(re.sub(r"[ \t]+", " ", re.sub(r"<[^>]*>", " ", text)))


def rows_of(study: StudyResult) -> dict[str, list[str]]:
    """Arm -> cells of its row, in the order of the table."""
    rows = {}
    body = study_section([study]).partition("<tbody>")[2].partition("</tbody>")[0]
    for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL):
        cells = [html.unescape(re.sub(r"<[^>]*>", "|", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        cells = [" ".join(part for part in cell.split("|") if part) for cell in cells]
        rows[cells[0].split()[0]] = cells
    return rows


def test_rows_stand_by_share_and_say_what_was_worked_out_elsewhere() -> None:
    """Of the real study, with the figures its own run printed."""
    rows = rows_of(real_study())
    assert list(rows) == ["full", "default", "sampled", "compact", "bucket", "labels", "subset"]
    assert rows["default"][1:] == ["–", "97.8% 81.2 to 119.1%", f"0.9% {MINUS}8.1 to 10.8%", "–", "6.1°", "86", "5",
                                   "0.004"]  # fmt: skip
    assert rows["bucket"] == [
        "bucket train.objective: bucket", "worse", "62.6% 58.9 to 66.9%", "29.1% 21.4 to 37.3%",
        "+0.247 +0.181 to +0.313", "37.4°", "86", "5", "0.0028*",
    ]  # fmt: skip
    assert rows["compact"][1] == "not told apart"
    assert rows["full"][2:4] == ["100.0%", "–"]
    assert (rows["labels"][0], rows["labels"][2], rows["labels"][6]) == ("labels no teacher", "0.0%", "–")


def test_what_helps_and_what_hurts_is_said_before_the_table() -> None:
    words = plain(study_section([real_study()]))
    assert "Better than the default: no arm. Worse than the default: bucket, subset. " in words
    assert "Not told apart from the default: compact, sampled." in words
    assert "Too few seeds" not in words
    assert words.index("Better than the default") < words.index("gain share")
    words = plain(study_section([crowded_study()]))
    assert "Better than the default: router_trust. " in words


def test_it_says_what_it_was_measured_on_and_what_a_share_is() -> None:
    words = plain(study_section([real_study()]))
    for part in (
        "Gain share is how much an arm gains of what full distillation gains over labels only",
        "Text: the Python standard library. Teacher: made by the study on that text, 1.1M parameters, ",
        "with a vocabulary of 4,096. Student: llama, 355k parameters, trained for 300 steps.",
        "32,640 positions of 128 held-out sequences",
        "Intervals are of 95%",
        "The lowest or the highest of the rates tried",
    ):
        assert part in words
    words = plain(study_section([crowded_study()]))
    assert "trained for 1,200 steps, on labels alone for 900 steps before." in words
    named = dataclasses.replace(real_study(), setting=dataclasses.replace(SETTING, teacher="my/teacher", text="my.txt"))
    assert "Text: my.txt. Teacher: my/teacher, 1.1M" in plain(study_section([named]))


def test_one_seed_has_no_intervals_and_no_verdict() -> None:
    study = study_of_one_seed()
    words = plain(study_section([study]))
    assert "The default itself is not in this study" in words
    assert {row[1] for row in rows_of(study).values()} == {"–"}
    assert " to " not in " ".join(row[2] for row in rows_of(study).values())
    seed = {name: dataclasses.replace(f, students={0: f.students[0]}) for name, f in real_study().findings.items()}
    words = plain(study_section([dataclasses.replace(study, findings=seed)]))
    assert "Too few seeds to tell: bucket, subset, compact, sampled." in words


def test_several_studies_follow_each_other_with_ids_of_their_own() -> None:
    section = study_section([real_study(), crowded_study(), study_of_one_seed()])
    assert section.count("<svg") == 2 + 2 + 1
    ids = re.findall(r'\sid="([^"]+)"', section)
    assert len(ids) == len(set(ids))


def compared(low: float | None, high: float | None) -> Comparison:
    none = Interval(0.0)
    difference = Interval(0.0, low, high)
    return Comparison(none, none, None, None, None, None, difference)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.01, 0.02, 1), (-0.02, -0.01, -1), (-0.01, 0.01, 0), (0.0, 0.1, 0), (-0.1, 0.0, 0), (None, None, None)],
)
def test_a_verdict_needs_an_interval_without_zero(low: float | None, high: float | None, verdict: int | None) -> None:
    assert verdict_of(compared(low, high)) == verdict


OF_FULL = "teacher in memory, "


@pytest.mark.parametrize(
    ("arm", "candidate", "words"),
    [
        ("labels", "", "no teacher"),
        (
            "full",
            "ce0",
            OF_FULL + "train.router: uniform, train.balance: false, train.ce_weight: 0, train.temperature: 1",
        ),
        (
            "full",
            "ce0_1_tau1_2_routed_balanced",
            OF_FULL + "train.router: learned, train.balance: true, train.ce_weight: 0.1, train.temperature: 1.2",
        ),
        ("default", "", ""),
        ("bucket", "", "train.objective: bucket"),
        ("compact", "", "cache.kind: compact"),
        ("sampled", "", "train.temperature: 1, cache.kind: sampled"),
        ("k8of4096", "", "cache.head_size: 8"),
        ("tau1_5", "", "train.temperature: 1.5"),
        ("tau3to2", "", "train.temperature: 3 to 2"),
        ("ce0_3", "", "train.ce_weight: 0.3"),
        ("no_balance", "", "train.balance: false"),
        ("router_gap", "", "train.router: gap"),
    ],
)
def test_what_an_arm_does_otherwise_is_said_in_its_settings(arm: str, candidate: str, words: str) -> None:
    finding = Finding(arm, candidate, 1e-3, False, {}, None, changes=ARMS[arm].changes_of(candidate))
    assert what_differs(finding) == words


def test_shares_in_words() -> None:
    assert share_text(Interval(0.978, 0.812, 1.191)) == "97.8% (81.2 to 119.1%)"
    assert share_text(Interval(-0.01)) == f"{MINUS}1.0%"
    assert share_text(None) == "no share"


def test_text_of_a_study_never_becomes_markup() -> None:
    study = real_study()
    hostile = dataclasses.replace(study.findings["default"], arm=HOSTILE, changes={HOSTILE: {HOSTILE: HOSTILE}})
    setting = dataclasses.replace(SETTING, text=HOSTILE, teacher=HOSTILE, student=HOSTILE)
    section = study_section([StudyResult(HOSTILE, setting, {**study.findings, HOSTILE: hostile})])
    assert "<script" not in section
    assert "<img" not in section
    assert html.unescape(section).count("<script>document.title='owned'</script>") >= 6


def test_figures_beyond_all_measure_still_make_a_page() -> None:
    study = real_study()
    students = {
        seed: dataclasses.replace(s, ce_nats=1e8, kl_nats=1e8)
        for seed, s in list(study.findings["compact"].students.items())
    }
    wild = dataclasses.replace(study.findings["compact"], arm="wild", students=students)
    study = dataclasses.replace(study, findings={**study.findings, "wild": wild})
    assert compare(wild, study.findings).kl_gain_share is not None
    assert rows_of(study)["wild"][1] == "worse"
