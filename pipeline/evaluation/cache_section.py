"""The part of the report about the teacher cache."""

from __future__ import annotations

from pipeline.cache.layout import RecordLayout
from pipeline.console import format_bytes
from pipeline.evaluation.cache_facts import CacheFacts
from pipeline.evaluation.charts import bar_chart, share_chart
from pipeline.evaluation.markup import Markup, count_text, details, element, figure, section, table, tiles
from pipeline.evaluation.series import Colour

_RETAINED_COLOURS: tuple[Colour, ...] = ("student", "baseline", "extra")


def cache_section(cache: CacheFacts) -> Markup:
    """Size and content of the teacher cache, with the share of the teacher's mass its head holds."""
    charts = element("div", *filter(None, (_retained_chart(cache), _bytes_chart(cache))), class_="charts")
    parts = (_facts(cache), charts, _shard_table(cache), _origin(cache))
    return section("cache", "Teacher cache", *parts, lead=_lead(cache.layout))


def _lead(layout: RecordLayout) -> str:
    """What a record of this kind keeps, in words."""
    if layout.kind == "sampled":
        return (
            f"At every position {layout.num_draws} of {layout.vocab_size:,} tokens are drawn from the teacher's "
            "prediction; how often each came up stands for its probability, at temperature 1 alone."
        )
    kept = f"the {layout.head_size:,} likeliest"
    if layout.kind == "compact":
        kept = f"as many of the likeliest as hold {layout.head_mass:.0%} of the mass, at most {layout.head_size}"
    return (
        f"At every position {kept} of {layout.vocab_size:,} tokens are kept one by one, with the mass of all others at "
        f"several temperatures and {layout.num_draws} tokens drawn from among them."
    )


def _facts(cache: CacheFacts) -> Markup:
    facts = [
        (f"{len(cache.sealed)} of {len(cache.shards)}", "shards sealed"),
        (count_text(cache.num_sequences), f"sequences of {cache.sequence_length:,}"),
        (count_text(cache.num_scored), "positions scored"),
        (format_bytes(cache.size_bytes), "on disk"),
    ]
    if cache.bytes_per_token is not None:
        facts.append((f"{cache.bytes_per_token:,.0f} B", "a token"))
    if cache.entropy_nats is not None:
        facts.append((f"{cache.entropy_nats:.3f}", "nats of entropy, teacher's mean"))
    if cache.cross_entropy_nats is not None:
        facts.append((f"{cache.cross_entropy_nats:.3f}", "nats, teacher's cross-entropy"))
    return tiles(facts)


def _retained_chart(cache: CacheFacts) -> Markup:
    curves = [
        (f"τ = {kept.temperature:g}: median {kept.median:.1%}, mean {kept.mean:.1%}", kept.histogram, colour)
        for kept, colour in zip(cache.retained, _RETAINED_COLOURS, strict=False)
        if sum(kept.histogram)
    ]
    if not curves:
        return Markup("")
    caption = (
        "Share of positions whose head holds at most this much of the teacher's softened mass. The further right a "
        "line rises, the more the head alone holds; the stored tail makes up for the rest."
    )
    return figure("Mass kept in the head", share_chart("retained", curves, "mass in the head"), caption)


def _bytes_chart(cache: CacheFacts) -> Markup:
    sealed = [shard for shard in cache.sealed if shard.num_scored]
    if not sealed:
        return Markup("")
    values = [(shard.size_bytes or 0) / shard.num_scored for shard in sealed]
    chart = bar_chart("bytes", [str(shard.index) for shard in sealed], values, "bytes a scored token", "shard")
    return figure("Size by shard", chart, "An uneven shard holds text that the teacher finds unusually easy or hard.")


def _shard_table(cache: CacheFacts) -> Markup:
    rows = [
        [
            f"{shard.index:05d}",
            shard.split,
            f"{shard.num_sequences:,}",
            f"{shard.num_scored:,}" if shard.size_bytes is not None else "–",
            format_bytes(shard.size_bytes) if shard.size_bytes is not None else "not sealed",
        ]
        for shard in cache.shards
    ]
    headings = ["shard", "split", "sequences", "scored positions", "size"]
    return details(f"All {len(rows)} shards", table(headings, rows))


def _origin(cache: CacheFacts) -> Markup:
    """Plan hash and environments; shards of more than one environment agree closely, but not bit for bit."""
    names = sorted({name for environment in cache.environments for name in environment})
    headings = ["part", *(f"environment {number}" for number in range(1, len(cache.environments) + 1))]
    rows = [[name, *(environment.get(name, "–") for environment in cache.environments)] for name in names]
    parts = [element("p", "Plan ", element("code", cache.plan_hash), class_="note")]
    if len(cache.environments) > 1:
        parts.append(
            element("p", "Shards were made in different environments; they agree within rounding, not bit for bit.")
        )
    if rows:
        parts.append(table(headings, rows, words=True))
    return details("Where it was made", *parts)
