"""The part of the report that tells how a training went."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.console import format_bytes
from pipeline.evaluation.charts import band_chart, line_chart
from pipeline.evaluation.history import Curve, TrainingHistory
from pipeline.evaluation.markup import Markup, element, figure, section, tiles
from pipeline.evaluation.series import Band, Colour, Dash, Level, Line

Others = Mapping[str, TrainingHistory]
_OTHER_COLOURS: tuple[Colour, ...] = ("baseline", "extra", "rest")  # of the trainings compared with, in order
_OTHER_DASHES: tuple[Dash, ...] = ("dashed", "dotted", "solid")  # of the first three, of the next, and so on


@dataclass(frozen=True, slots=True)
class _Panel:
    """One quantity of the training lines, and how it is drawn."""

    key: str
    title: str
    unit: str
    caption: str
    noisy: bool = True
    log_y: bool = False
    percent: bool = False
    from_zero: bool = False


_PANELS = (
    _Panel("ce", "Loss on the labels", "cross-entropy, nats", "The labels' part of the loss, before its weight."),
    _Panel(
        "kd",
        "Loss to the teacher",
        "distillation objective, nats",
        "The teacher's part of the loss at the temperature of the step, before its weight and τ².",
    ),
    _Panel(
        "rank",
        "Loss to the teacher's order",
        "nats a choice",
        "How unlikely the student finds the order of the teacher's likeliest tokens, before its weight.",
    ),
    _Panel(
        "agreement",
        "Agreement with the teacher",
        "positions with the same first choice",
        "How often student and teacher put the same token first, on training text.",
        percent=True,
    ),
    _Panel(
        "temperature",
        "Temperature",
        "τ",
        "At higher τ the teacher's lesser choices count for more.",
        noisy=False,
        from_zero=True,
    ),
    _Panel(
        "learning_rate",
        "Learning rate",
        "step size",
        "Warm-up, then a cosine down to its final share of the peak.",
        noisy=False,
        from_zero=True,
    ),
    _Panel(
        "gradient_norm",
        "Gradient norm",
        "norm before clipping",
        "Spikes that keep returning are a sign of a learning rate near its limit.",
        log_y=True,
    ),
    _Panel(
        "gradient_norm_clipped",
        "Gradient norm, clipped",
        "norm after clipping",
        "What the optimizer was given; flat where every step was clipped.",
        from_zero=True,
    ),
    _Panel(
        "effective_draws",
        "Effective tail draws",
        "effective sample size",
        "How many of the teacher's tail draws carry weight; near 1, the tail's estimate is noisy.",
        from_zero=True,
    ),
)
_VALIDATED = (
    _Panel(
        "ce",
        "Validation",
        "cross-entropy of held-out labels, nats",
        "Lower is better.",
    ),
    _Panel(
        "kd",
        "Validation, distance to the teacher",
        "KL to the cached teacher at τ = 1, nats",
        "Lower is better. The tail counts as one outcome, so this is never above the KL over the whole vocabulary; of "
        "a cache of the kind sampled it estimates that.",
    ),
    _Panel(
        "agreement",
        "Validation, agreement with the teacher",
        "positions with the same first choice",
        "How often student and teacher put the same token first, on held-out text.",
        percent=True,
    ),
)
_GROUP_STYLES: tuple[tuple[str, Colour, Dash], ...] = (
    ("embedding", "student", "solid"),
    ("attention", "second", "dashed"),
    ("mlp", "baseline", "solid"),
    ("norm", "extra", "dotted"),
    ("head", "rest", "dashed"),
    ("other", "muted", "dotted"),
)
_PART_LOOKS: dict[str, tuple[str, Colour]] = {
    "ce": ("labels", "baseline"),
    "kd": ("teacher", "student"),
    "rank": ("teacher's order", "second"),
}
_MACHINE_PANELS = (
    _Panel("tokens_per_second", "Throughput", "tokens a second", "Masked positions included.", from_zero=True),
    _Panel(
        "data_wait_share",
        "Waiting for data",
        "share of the time",
        "Time the student stood idle.",
        percent=True,
        from_zero=True,
    ),
    _Panel(
        "memory_share",
        "Memory of the card",
        "share in use",
        "Above train.memory_guard a step is computed in smaller pieces.",
        noisy=False,
        percent=True,
        from_zero=True,
    ),
)


def training_section(history: TrainingHistory, others: Others, teacher_nats: float | None) -> Markup:
    """Charts of one training, beside others where given; `teacher_nats` is the teacher's validation cross-entropy."""
    name = "distilled" if history.curve("kd") else "this run"
    charts = [
        *(_validation_chart(each, name, history, others, teacher_nats) for each in _VALIDATED),
        *(_chart(panel, name, history.curve(panel.key), _curves(panel.key, others)) for panel in _PANELS),
        _weights_chart(history),
        _routes_chart(history),
        _group_norms_chart(history),
        *(_chart(panel, name, history.timing(panel.key), {}) for panel in _MACHINE_PANELS),
    ]
    lead = "Faint lines are what was logged, strong ones its running mean."
    return section("training", "Training", _facts(history), element("div", *charts, class_="charts"), lead=lead)


def _validation_chart(
    panel: _Panel, name: str, history: TrainingHistory, others: Others, teacher_nats: float | None
) -> Markup:
    kinds: tuple[tuple[str, str, Colour, Dash], ...] = (
        (name, "raw", "student", "solid"),
        (f"{name}, averaged weights (EMA)", "ema", "second", "dashed"),
    )
    lines = [
        Line(label, curve.steps, curve.values, colour, dash)
        for label, weights, colour, dash in kinds
        if (curve := history.validated(panel.key, weights))
    ]
    for (label, other), (colour, dash) in zip(others.items(), _looks(), strict=False):
        if curve := other.best_validation(panel.key):
            lines.append(Line(label, curve.steps, curve.values, colour, dash))
    if not lines:
        return Markup("")
    levels = [Level("teacher", teacher_nats)] if teacher_nats is not None and panel.key == "ce" else []
    chart = line_chart(f"validation-{panel.key}", lines, panel.unit, levels, percent=panel.percent)
    return figure(panel.title, chart, panel.caption)


def _group_norms_chart(history: TrainingHistory) -> Markup:
    """Gradient norms by the kind of weight, of this training alone; nothing where it does not log them."""
    lines = [
        Line(group, curve.steps, curve.values, colour, dash, noisy=True)
        for group, colour, dash in _GROUP_STYLES
        if (curve := history.curve(f"gradient_norm_{group}"))
    ]
    if not lines:
        return Markup("")
    chart = line_chart("gradient-norm-groups", lines, "norm before clipping", log_y=True)
    return figure("Gradient norm by kind of weight", chart, "Trouble begins in one that leaves the others behind.")


def _chart(panel: _Panel, name: str, curve: Curve, beside: Mapping[str, Curve]) -> Markup:
    """A chart of one quantity; nothing where this training does not log it."""
    if not curve:
        return Markup("")
    lines = [Line(name, curve.steps, curve.values, noisy=panel.noisy)]
    for (label, other), (colour, dash) in zip(beside.items(), _looks(), strict=False):
        if other:
            lines.append(Line(label, other.steps, other.values, colour, dash, noisy=panel.noisy))
    chart = line_chart(
        panel.key.replace("_", "-"),
        lines,
        panel.unit,
        log_y=panel.log_y,
        percent=panel.percent,
        from_zero=panel.from_zero,
    )
    constant = "" if panel.noisy or not curve.is_constant() else f"Constant: {curve.last:g} at every step."
    return figure(panel.title, chart, constant or panel.caption)


def _weights_chart(history: TrainingHistory) -> Markup:
    """The weights of the parts, where one of them moves, by a schedule or by balance."""
    curves = {part: history.curve(f"{part}_weight") for part in _PART_LOOKS}
    if all(not curve or curve.is_constant() for curve in curves.values()):
        return Markup("")
    looks = ((_PART_LOOKS[part], curve) for part, curve in curves.items() if curve and any(curve.values))
    lines = [Line(words, curve.steps, curve.values, colour) for (words, colour), curve in looks]
    chart = line_chart("weights", lines, "weight", from_zero=True)
    return figure("Weights of the loss", chart, "By their schedule, and by balance where that is on.")


def _routes_chart(history: TrainingHistory) -> Markup:
    """How a router spreads the weights of each part over positions; nothing where there was none."""
    bands = []
    for part, (words, colour) in _PART_LOOKS.items():
        curves = [history.curve(f"route_{part}_{quantile}") for quantile in ("p10", "p50", "p90")]
        if not any(history.curve(f"{part}_weight").values) or not all(curves):
            continue
        rows = [dict(zip(curve.steps, curve.values, strict=True)) for curve in curves]
        steps = sorted(set.intersection(*map(set, rows)))
        low, middle, high = ([row[step] for step in steps] for row in rows)
        bands.append(Band(words, steps, low, middle, high, colour))
    if not bands:
        return Markup("")
    chart = band_chart("routes", bands, "weight of a position")
    caption = "What the router gives positions: half of them less than the line, eight of ten within the band."
    return figure("Routing", chart, caption)


def _curves(key: str, others: Others) -> dict[str, Curve]:
    """A quantity of the trainings compared with. A temperature means nothing where no teacher was listened to."""
    none = Curve((), ())
    return {
        name: other.curve(key) if key != "temperature" or other.curve("kd") else none for name, other in others.items()
    }


def _looks() -> Iterator[tuple[Colour, Dash]]:
    """Colour and dash of one training compared with after another; by its place, so the same on every chart."""
    return ((colour, dash) for dash in itertools.cycle(_OTHER_DASHES) for colour in _OTHER_COLOURS)


def _facts(history: TrainingHistory) -> Markup:
    facts = [(f"{history.last_step:,}", "optimizer steps")]
    if history.stopped is not None:
        evaluations = int(history.stopped["evaluations"])
        facts.append((f"{history.stopped['step']:,}", f"step it stopped early at, {evaluations:,} evaluations in vain"))
    averaged = bool(history.validated("ce", "ema"))
    for weights, words in (("raw", ", raw weights" if averaged else ""), ("ema", ", averaged weights (EMA)")):
        if curve := history.validated("ce", weights):
            facts.append((f"{curve.last:.3f}", f"nats, last validation{words}"))
    skipped = history.curve("skipped_steps")
    if skipped and skipped.last:
        facts.append((f"{skipped.last:,.0f}", "steps skipped, not finite"))
    if (speed := history.mean_timing("tokens_per_second")) is not None:
        facts.append((f"{speed:,.0f}", "tokens a second, mean"))
    if (wait := history.mean_timing("data_wait_share")) is not None:
        facts.append((f"{wait:.1%}", "of the time waiting for data"))
    if memory := history.timing("memory_bytes"):
        facts.append((format_bytes(max(memory.values)), "memory at most"))
    return tiles(facts)
