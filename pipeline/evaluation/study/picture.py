"""Bytes a cached token against the share of full distillation's gain, in the report and as a picture of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline import files
from pipeline.evaluation.canvas import WIDTH
from pipeline.evaluation.interval_charts import interval_chart, scatter_chart
from pipeline.evaluation.series import Chart, Colour, Estimate, Level, Spot
from pipeline.evaluation.standalone import standalone
from pipeline.evaluation.study.findings import DEFAULT, FULL, LABELS, Finding, compare
from pipeline.evaluation.study.results import StudyResult, load_results

_BOUNDS = (-0.5, 1.5)  # of what a picture shows of shares: far below labels only, all are equally lost
_ALONE = (640, 380)
_FULL_LEVEL, _LABELS_LEVEL = Level("full distillation", 1.0), Level("labels only", 0.0, "baseline")


def draw_pictures(path: Path) -> list[Path]:
    """Draw every study of a quality.json beside it, as quality-0.svg and so on; those that have something to show."""
    drawn = []
    for number, study in enumerate(load_results(path)):
        if chart := bytes_chart("quality", study, _ALONE):
            drawn.append(path.with_name(f"quality-{number}.svg"))
            files.write_file(drawn[-1], standalone(chart))
    return drawn


def bytes_chart(name: str, study: StudyResult, size: tuple[float, float] = (WIDTH, 300)) -> Chart | None:
    """A spot for each arm with a cache of its own, and for the default; None where there is no such spot.

    Arms that read the default's cache differ from it in training, not in bytes.
    """
    spots = [
        Spot(finding.bytes_per_token, worth)
        for finding in study.findings.values()
        if finding.bytes_per_token is not None
        and (finding.arm == DEFAULT or finding.has_own_cache)
        and (worth := _estimate(finding, study.findings))
    ]
    if not spots:
        return None
    unit = "share of full distillation's gain, with 95% intervals"
    return scatter_chart(name, spots, unit, [_FULL_LEVEL], f"bytes a cached token ({study.title})", _BOUNDS, size)


def training_chart(name: str, study: StudyResult) -> Chart | None:
    """The share of every arm that learns from the default's cache, the highest first; None where it is alone."""
    estimates = [
        worth
        for finding in study.findings.values()
        if finding.arm not in (LABELS, FULL)
        and not finding.has_own_cache
        and (worth := _estimate(finding, study.findings))
    ]
    if len(estimates) < 2:
        return None
    return interval_chart(
        name,
        sorted(estimates, key=lambda estimate: -estimate.value),
        [_LABELS_LEVEL, _FULL_LEVEL],
        "share of full distillation's gain, with 95% intervals",
        _BOUNDS,
    )


def _estimate(finding: Finding, findings: Mapping[str, Finding]) -> Estimate | None:
    share = compare(finding, findings).kl_gain_share
    if share is None:
        return None
    ends = None if share.low is None or share.high is None else (share.low, share.high)
    colour: Colour = "student" if finding.arm == DEFAULT else "second"
    return Estimate(finding.arm, share.mean, ends, colour)
