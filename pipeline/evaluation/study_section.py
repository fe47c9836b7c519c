"""The part of the report that tells a study: which way of distilling helps, which hurts, and what a byte buys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.evaluation.markup import Markup, element, figure, section, table, tiles
from pipeline.evaluation.story import place_name
from pipeline.evaluation.study.findings import DEFAULT, FULL, LABELS, Comparison, Finding, compare
from pipeline.evaluation.study.picture import bytes_chart, training_chart
from pipeline.evaluation.study.results import Setting, StudyResult
from pipeline.evaluation.study.statistics import Interval

_HEADINGS = (
    "arm", "beside the default", "gain share", "perplexity lost", "CE less the default's, nats", "gradient angles",
    "bytes a token", "seeds", "learning rate",
)  # fmt: skip
_LEAD = (
    "Every arm differs from the default in one thing, but for what goes with it, and was trained like all others: from "
    "the same beginnings, on the same text in the same order, seed by seed, and each at the best of its learning rates."
)
_SHARE_WORDS = (
    "Gain share is how much an arm gains of what full distillation gains over labels only, by the KL to the teacher on "
    "held-out text: 0% is a student that learned from labels alone, 100% one whose teacher was in memory and gave all "
    "probabilities. Perplexity lost is beside full distillation."
)
_NOTES = (
    "Intervals are of 95%, paired by seed. An arm is called better or worse where the interval of its cross-entropy "
    "less the default's leaves out zero; of twenty arms that change nothing, about one would be called so by chance. "
    "Rates were chosen on the same students and other text, and no interval holds that choice. "
    "The gradient angles lie between an arm's whole gradient and full distillation's, at the students where all begin, "
    "that labels alone left, and that full distillation left."
)
_EDGE_MARK = "*"
_EDGE_NOTE = f" {_EDGE_MARK} The lowest or the highest of the rates tried: a better one may lie beyond."
_BYTES_CAPTION = "The default, and the arms with a cache of their own. Left is smaller, up is better."
_TRAINING_CAPTION = "Arms that learn from the default's cache in another way, the best first. Right is better."
_VERDICTS = {-1: ("better", "good"), 0: ("not told apart", ""), 1: ("worse", "bad")}


def study_section(studies: Sequence[StudyResult]) -> Markup:
    """Every study of a run, the first one first."""
    parts = [_study(number, study) for number, study in enumerate(studies)]
    words = element("p", _SHARE_WORDS, class_="lead")
    return section("study", "Which way of distilling helps", words, *parts, lead=_LEAD)


def share_text(interval: Interval | None) -> str:
    """The share of a gain in words, with its interval where it has one."""
    if interval is None:
        return "no share"
    ends = _ends(interval, _share)
    return _share(interval.mean) + (f" ({ends})" if ends else "")


def _study(number: int, study: StudyResult) -> Markup:
    compared = {name: compare(finding, study.findings) for name, finding in study.findings.items()}
    charts = (
        ("Bytes against quality", bytes_chart(f"study-{number}-bytes", study), _BYTES_CAPTION),
        ("Ways of training", training_chart(f"study-{number}-training", study), _TRAINING_CAPTION),
    )
    figures = [figure(title, chart, caption) for title, chart, caption in charts if chart]
    edge = any(finding.at_an_edge for finding in study.findings.values())
    return element(
        "div",
        element("h3", study.title),
        element("p", _measured_on(study.setting), class_="lead"),
        _facts(study, compared),
        element("p", *_verdict_lines(compared)),
        element("div", *figures, class_="charts") if figures else "",
        _table(study, compared),
        element("p", _NOTES + (_EDGE_NOTE if edge else ""), class_="note"),
        class_="study",
    )


def _measured_on(setting: Setting) -> str:
    """Text, teacher, student, and how much was held out."""
    teacher = "made by the study on that text" if setting.teacher is None else setting.teacher
    before = f", on labels alone for {setting.beginning_steps:,} steps before" if setting.beginning_steps else ""
    return (
        f"Text: {place_name(setting.text)}. Teacher: {teacher}, {_parameters(setting.teacher_parameters)}, with a "
        f"vocabulary of {setting.vocab_size:,}. Student: {setting.student}, {_parameters(setting.student_parameters)}, "
        f"trained for {setting.steps:,} steps{before}. Measured on {setting.num_positions:,} positions of "
        f"{setting.num_sequences:,} held-out sequences; rates, and full distillation's settings, were chosen on others."
    )


def _facts(study: StudyResult, compared: Mapping[str, Comparison]) -> Markup:
    """The default's figures, and the cross-entropies all of it lies between."""
    facts = []
    default, default_size = compared.get(DEFAULT), None
    if default is not None:
        default_size = study.findings[DEFAULT].bytes_per_token
    if default is not None and default.kl_gain_share is not None:
        facts.append((_share(default.kl_gain_share.mean), "of full distillation's gain, by the default"))
    if default is not None and default.perplexity_lost is not None:
        facts.append((_percent(default.perplexity_lost.mean), "perplexity lost by the default"))
    if default_size is not None:
        facts.append((f"{default_size:,.0f} B", "a token in the default's cache"))
    for name, words in ((LABELS, "labels only"), (FULL, "full distillation")):
        if name in compared:
            facts.append((f"{compared[name].ce_nats.mean:.3f}", f"nats, {words}"))
    facts.append((f"{study.setting.teacher_ce_nats:.3f}", "nats, the teacher itself"))
    return tiles(facts)


# ------------------------------------------------------------------ what helps and what hurts


def verdict_of(compared: Comparison) -> int | None:
    """−1 where an arm's cross-entropy is below the default's with 95 %, 1 where above; None where it cannot be said."""
    difference = compared.ce_vs_default
    if difference is None or difference.low is None or difference.high is None:
        return None
    return 1 if difference.low > 0 else -1 if difference.high < 0 else 0


def _verdict_lines(compared: Mapping[str, Comparison]) -> Iterable[str]:
    """A sentence for each verdict."""
    if DEFAULT not in compared:
        return ["The default itself is not in this study, so no arm can be set beside it."]
    verdicts = {name: verdict_of(found) for name, found in compared.items() if name not in (DEFAULT, LABELS, FULL)}
    words: dict[int | None, str] = {
        -1: "Better than the default",
        1: "Worse than the default",
        0: "Not told apart from the default",
        None: "Too few seeds to tell",
    }
    lines = []
    for verdict, beginning in words.items():
        names = [name for name, found in verdicts.items() if found == verdict]
        if names or verdict == -1:
            lines.append(f"{beginning}: {', '.join(names) or 'no arm'}. ")
    return lines


def _table(study: StudyResult, compared: Mapping[str, Comparison]) -> Markup:
    """An arm a line, the highest share first; those without one last."""

    def order(name: str) -> float:
        share = compared[name].kl_gain_share
        return float("inf") if share is None else -share.mean

    names = sorted(compared, key=order)
    rows = [_row(study.findings[name], compared[name]) for name in names]
    return table(_HEADINGS, rows, ["best" if name == DEFAULT else "" for name in names])


def _row(finding: Finding, found: Comparison) -> list[str]:
    name, angles = finding.arm, " / ".join(f"{degrees:.1f}°" for degrees, _ in finding.gradients.values())
    by_definition = name in (LABELS, FULL)
    share = found.kl_gain_share
    return [
        element("span", name, element("small", what_differs(finding))),
        _verdict(finding, found),
        _figure(None if share is None else Interval(share.mean) if by_definition else share, _share),
        "–" if name == FULL else _figure(found.perplexity_lost, _percent),
        "–" if name == DEFAULT else _figure(found.ce_vs_default, _signed_nats),
        angles or "–",
        "–" if finding.bytes_per_token is None else f"{finding.bytes_per_token:,.0f}",
        f"{len(finding.students)}",
        f"{finding.learning_rate:.2g}" + (_EDGE_MARK if finding.at_an_edge else ""),
    ]


def _verdict(finding: Finding, found: Comparison) -> str:
    if finding.arm == DEFAULT:
        return "–"
    verdict = verdict_of(found)
    if verdict is None:
        return "–"
    words, tone = _VERDICTS[verdict]
    return element("span", words, class_=f"verdict {tone}".strip())


def what_differs(finding: Finding) -> str:
    """What an arm does otherwise than the default, in the words of its settings."""
    if finding.arm == LABELS:
        return "no teacher"
    changes = {key: value for key, value in finding.changes.items() if key != "train.kd_weight"}  # the rest of CE's
    said = []
    if finding.arm == FULL:
        said = ["teacher in memory"]
        changes = {key: value for key, value in changes.items() if key != "train.objective"}
    if "cache.kind" in changes:
        changes = {key: value for key, value in changes.items() if key == "cache.kind" or key.startswith("train.")}
    return ", ".join([*said, *(f"{key}: {_setting(value)}" for key, value in changes.items())])


def _setting(value: Any) -> str:
    """A value of the config; of a temperature its start and end, once where they are the same."""
    if isinstance(value, dict):
        return " to ".join(dict.fromkeys(_setting(part) for part in value.values()))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


# ------------------------------------------------------------------ figures in words


def _figure(interval: Interval | None, write: Any) -> str:
    """A mean, and its interval in small letters beneath."""
    if interval is None:
        return "–"
    ends = _ends(interval, write)
    return element("span", write(interval.mean), element("small", ends) if ends else "")


def _ends(interval: Interval, write: Any) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f"{write(interval.low).removesuffix('%')} to {write(interval.high)}"


def _share(value: float) -> str:
    return _minus(f"{100 * value:,.1f}%")


def _percent(value: float) -> str:
    return _minus(f"{value:,.1f}%")


def _signed_nats(value: float) -> str:
    return _minus(f"{value:+.3f}")


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def _parameters(count: int) -> str:
    return f"{count / 1e6:,.1f}M parameters" if count >= 1e6 else f"{count / 1e3:,.0f}k parameters"
