"""Bytes a cached token against the share of full distillation's gain: a picture that stands on its own."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.benches.quality.arms import DEFAULT
from pipeline.benches.quality.findings import Finding, compare
from pipeline.evaluation.charts import scatter_chart, standalone
from pipeline.evaluation.series import Colour, Level, Spot


def quality_chart(title: str, findings: Mapping[str, Finding]) -> bytes:
    """An SVG file: one spot an arm with a cache of its own, whiskers where seeds tell an interval."""
    spots = []
    for finding in findings.values():
        share = compare(finding, findings).kl_gain_share
        if finding.bytes_per_token is None or share is None or not _shows_its_cache(finding, findings):
            continue
        ends = None if share.low is None or share.high is None else (share.low, share.high)
        colour: Colour = "student" if finding.arm == DEFAULT else "second"
        spots.append(Spot(finding.arm, finding.bytes_per_token, share.mean, ends, colour))
    levels = [Level("full distillation", 1.0)]
    unit = "share of full distillation's gain over labels only"
    chart = scatter_chart("quality", spots, unit, levels, f"bytes a cached token ({title})")
    return standalone(chart)


def _shows_its_cache(finding: Finding, findings: Mapping[str, Finding]) -> bool:
    """Of the arms that read the default's cache the default alone: the others differ in training, not in bytes."""
    default = findings.get(DEFAULT)
    return finding.arm == DEFAULT or default is None or finding.bytes_per_token != default.bytes_per_token
