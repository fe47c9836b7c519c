"""The part of the report about the text: what was read, what was left out and why, and how it became sequences."""

from __future__ import annotations

from pipeline.console import format_bytes
from pipeline.data.report import DataReport
from pipeline.evaluation.charts import bar_chart
from pipeline.evaluation.markup import Markup, count_text, element, figure, section, table, tiles

_QUANTILES = ("min", "p25", "median", "p75", "p95", "max")
_WIDE = 50  # longest over shortest document from which a linear scale would hide the short ones


def data_section(report: DataReport) -> Markup:
    """Counts, reasons for every document left out, lengths and splits."""
    return section(
        "data",
        "Data",
        _facts(report),
        *(element("p", line, class_="note") for line in report.odd_lines()),
        element("div", element("div", _split_table(report), _dropped(report)), _lengths(report), class_="pair"),
        lead="What was found in the text before any model ran. Nothing is left out without being counted here.",
    )


def _facts(report: DataReport) -> Markup:
    return tiles(
        [
            (count_text(report.documents_read), "documents read"),
            (count_text(report.documents_kept), "documents kept"),
            (format_bytes(report.num_bytes), "of text kept"),
            (count_text(report.num_tokens), "tokens"),
            (f"{report.num_bytes / max(1, report.num_tokens):.2f}", "bytes a token"),
            (f"{report.unknown_share:.2%}", "unknown tokens"),
            (f"{report.padding_share:.2%}", "padding in sequences"),
        ]
    )


def _dropped(report: DataReport) -> Markup:
    if not report.dropped:
        return element("p", "No document was left out.", class_="note")
    reasons = sorted(report.dropped.items(), key=lambda item: (-item[1].count, item[0]))
    rows = [
        [
            reason,
            f"{dropped.count:,}",
            ", ".join(dropped.examples) + (", …" if dropped.count > len(dropped.examples) else ""),
        ]
        for reason, dropped in reasons
    ]
    return table(["reason for leaving out", "documents", "the first of them"], rows, words=True)


def _split_table(report: DataReport) -> Markup:
    splits = {"train": report.train, "validation": report.validation}
    rows = [
        [name, f"{split.documents:,}", f"{split.tokens:,}", f"{split.sequences:,}", f"{split.scored_positions:,}"]
        for name, split in splits.items()
    ]
    return table(["split", "documents", "tokens", "sequences", "scored positions"], rows)


def _lengths(report: DataReport) -> Markup:
    if not report.document_tokens:
        return Markup("")
    quantiles = sorted(report.document_tokens.items(), key=lambda item: (item[1], _QUANTILES.index(item[0])))
    values = [float(value) for _, value in quantiles]
    wide = values[-1] > _WIDE * max(1.0, values[0])
    chart = bar_chart("lengths", [name for name, _ in quantiles], values, "tokens", "quantile of documents", log_y=wide)
    caption = "On a logarithmic scale: each line is ten times the one below." if wide else "With the end-of-text token."
    return figure("Length of documents", chart, caption)
