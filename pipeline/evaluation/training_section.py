"""The part of the report that tells how a training went."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.console import format_bytes
from pipeline.evaluation.charts import Colour, Level, Line, line_chart
from pipeline.evaluation.history import Curve, TrainingHistory
from pipeline.evaluation.markup import Markup, element, figure, section, tiles

OTHERS: tuple[Colour, ...] = ("baseline", "extra", "rest")  # colours of the trainings compared with, in order


def training_section(
    history: TrainingHistory, others: Mapping[str, TrainingHistory], teacher_nats: float | None
) -> Markup:
    """Charts of one training, beside others where given; `teacher_nats` is the teacher's validation cross-entropy."""
    charts = [
        _validation_chart(history, others, teacher_nats),
        _part_chart("ce", "Loss on the labels", "cross-entropy of the training labels, nats", history, others,
                    "The labels' part of the loss, before its weight."),
        _part_chart("kd", "Loss to the teacher", "distillation objective, nats", history, others,
                    "The distillation part of the loss at the temperature of the step, before its weight and τ²."),
        _part_chart("agreement", "Agreement with the teacher", "share of positions with the same first choice", history,
                    others, "How often student and teacher put the same token first, on training positions.", percent=True),
        _part_chart("temperature", "Temperature", "τ", history, {}, _constant(history.curve("temperature"), "τ")),
        _part_chart("learning_rate", "Learning rate", "learning rate", history, others,
                    "Warm-up, then a cosine to its final share of the peak."),
        _part_chart("gradient_norm", "Gradient norm", "norm before clipping", history, others,
                    "Spikes that return are a sign of a learning rate near its limit.", log_y=True),
        _part_chart("effective_draws", "Effective tail draws", "effective sample size of the tail draws", history, {},
                    "How many of the teacher's tail draws carry weight; near 1, the tail's estimate is noisy."),
        _timing_chart(history, "tokens_per_second", "Throughput", "tokens a second"),
        _timing_chart(history, "data_wait_share", "Waiting for data", "share of time spent waiting", percent=True),
    ]  # fmt: skip
    lead = "Faint lines are single logged steps, strong ones their running mean."
    return section(
        "training", "Training", _facts(history), element("div", *filter(None, charts), class_="charts"), lead=lead
    )


def _validation_chart(
    history: TrainingHistory, others: Mapping[str, TrainingHistory], teacher_nats: float | None
) -> Markup:
    lines = [
        Line(label, curve.steps, curve.values, colour, dashed)
        for label, weights, colour, dashed in (
            ("distilled", "raw", "student", False),
            ("distilled, EMA weights", "ema", "second", True),
        )
        if (curve := history.validated("ce", weights))
    ]
    for (name, other), colour in zip(others.items(), OTHERS, strict=False):
        curve = _better(other)
        if curve:
            lines.append(Line(name, curve.steps, curve.values, colour, dashed=False))
    if not lines:
        return Markup("")
    levels = [Level("teacher", teacher_nats)] if teacher_nats is not None else []
    chart = line_chart("validation", lines, "cross-entropy of held-out labels, nats", levels)
    return figure(
        "Validation", chart, "Lower is better. Raw weights, and their moving average (EMA) where one is kept."
    )


def _better(history: TrainingHistory) -> Curve:
    """The validation curve of the weights that end lower."""
    curves = [curve for weights in ("raw", "ema") if (curve := history.validated("ce", weights))]
    return min(curves, key=lambda curve: curve.last, default=Curve((), ()))


def _part_chart(
    key: str,
    title: str,
    unit: str,
    history: TrainingHistory,
    others: Mapping[str, TrainingHistory],
    caption: str,
    log_y: bool = False,
    percent: bool = False,
) -> Markup:
    """A chart of one quantity of the training lines; nothing where this training does not log it."""
    curve = history.curve(key)
    if not curve:
        return Markup("")
    smooth_by_nature = key in ("temperature", "learning_rate")
    lines = [Line("distilled", curve.steps, curve.values, noisy=not smooth_by_nature)]
    for (name, other), colour in zip(others.items(), OTHERS, strict=False):
        if beside := other.curve(key):
            lines.append(Line(name, beside.steps, beside.values, colour, dashed=True, noisy=not smooth_by_nature))
    chart = line_chart(key.replace("_", "-"), lines, unit, log_y=log_y, percent=percent, from_zero=smooth_by_nature)
    return figure(title, chart, caption)


def _timing_chart(history: TrainingHistory, key: str, title: str, unit: str, percent: bool = False) -> Markup:
    curve = history.timing(key)
    if not curve:
        return Markup("")
    line = Line(title, curve.steps, curve.values, "student", noisy=True)
    return figure(title, line_chart(key.replace("_", "-"), [line], unit, from_zero=True, percent=percent))


def _constant(curve: Curve, symbol: str) -> str:
    if curve and curve.is_constant():
        return f"Constant: {symbol} = {curve.last:g} at every step."
    return "Softer targets first, sharper ones later." if curve else ""


def _facts(history: TrainingHistory) -> Markup:
    facts = [(f"{history.last_step:,}", "optimizer steps")]
    for weights, name in (("raw", "raw weights"), ("ema", "EMA weights")):
        if curve := history.validated("ce", weights):
            facts.append((f"{curve.last:.3f} nats", f"last validation, {name}"))
    skipped = history.curve("skipped_steps")
    if skipped and skipped.last:
        facts.append((f"{skipped.last:,.0f}", "steps skipped (overflow)"))
    if speed := history.timing("tokens_per_second"):
        facts.append((f"{_mean(speed):,.0f}", "tokens a second, mean"))
    if wait := history.timing("data_wait_share"):
        facts.append((f"{_mean(wait):.1%}", "of the time waiting for data"))
    if memory := history.timing("memory_bytes"):
        facts.append((format_bytes(max(memory.values)), "memory at most"))
    return tiles(facts)


def _mean(curve: Curve) -> float:
    return sum(curve.values) / len(curve.values)
