"""The figures of a study, and the goals of its main arms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.benches.results import Result, measured
from pipeline.evaluation.study.findings import DEFAULT, FULL, LABELS, Comparison, Finding, compare
from pipeline.evaluation.study.statistics import Interval

_SHARE_GOALS = {DEFAULT: 0.99, "compact": 0.95, "sampled": 0.95}
_LOW_GOALS = {DEFAULT: 0.95}
_LOST_GOALS = {DEFAULT: 1.0}  # percent


def results_of(study: str, findings: Mapping[str, Finding]) -> list[Result]:
    """The figures of a study; its name, where it has one, follows the arm's."""
    results: list[Result] = []
    for finding in findings.values():
        place = f"quality.{finding.arm}" + (f".{study}" if study else "")
        results += _figures(place, finding, compare(finding, findings))
    return results


def _figures(place: str, finding: Finding, found: Comparison) -> Iterator[Result]:
    name = finding.arm
    yield from _spread(f"{place}.kl_nats", found.kl_nats, "nats")
    yield from _spread(f"{place}.ce_nats", found.ce_nats, "nats")
    yield measured(f"{place}.seeds", len(finding.students), "trainings")
    yield measured(f"{place}.learning_rate", finding.learning_rate)
    if finding.bytes_per_token is not None:
        yield measured(f"{place}.bytes_per_token", finding.bytes_per_token, "bytes")
    if found.kl_gain_share is not None and name not in (LABELS, FULL):
        goal, low_goal = _SHARE_GOALS.get(name), _LOW_GOALS.get(name)
        yield from _spread(f"{place}.gain_share", found.kl_gain_share, at_least=goal, low_at_least=low_goal)
    if found.ce_gain_share is not None and name not in (LABELS, FULL):
        yield from _spread(f"{place}.ce_gain_share", found.ce_gain_share)
    if found.perplexity_lost is not None and name != FULL:
        yield from _spread(f"{place}.perplexity_lost", found.perplexity_lost, "%", below=_LOST_GOALS.get(name))
    for key, difference in (("kl", found.kl_vs_default), ("ce", found.ce_vs_default)):
        if difference is not None and name != DEFAULT:
            yield from _spread(f"{place}.{key}_vs_default_nats", difference, "nats")
    for student, (degrees, norm) in finding.gradients.items():
        yield measured(f"{place}.gradient_angle.{student}", degrees, "degrees")
        yield measured(f"{place}.gradient_norm.{student}", norm, "of full KD's")


def _spread(
    name: str,
    interval: Interval,
    unit: str = "",
    *,
    at_least: float | None = None,
    low_at_least: float | None = None,
    below: float | None = None,
) -> Iterator[Result]:
    """A mean and the ends of its interval where it has them."""
    yield measured(name, interval.mean, unit, at_least=at_least, below=below)
    if interval.low is not None and interval.high is not None:
        yield measured(f"{name}.low", interval.low, unit, at_least=low_at_least)
        yield measured(f"{name}.high", interval.high, unit)
