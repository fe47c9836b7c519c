"""What the report draws of the weights of the loss, and of a card."""

from __future__ import annotations

import dataclasses
import html
import re
from typing import Any

from pipeline.evaluation.history import TrainingHistory
from pipeline.evaluation.training_section import training_section
from tests.evaluation.stories import make_history

_ENTRY = r'<i style="--key:var\(--(\w+)\)" class="(\w+)"></i>([^<]+)</li>'
STEADY = {"ce_weight": 0.1, "kd_weight": 0.9, "rank_weight": 0.0}


def section_of(**more: Any) -> str:
    """The section of a training whose lines also hold these; a callable is asked for each line's step."""
    history: TrainingHistory = make_history()
    train = tuple(
        line | {name: value(line["step"]) if callable(value) else value for name, value in more.items()}
        for line in history.train
    )
    return str(training_section(dataclasses.replace(history, train=train), {}, None))


def routing_of(section: str) -> str:
    """The chart of routes, without the words around it."""
    found = re.search(r"<h3>Routing</h3>(.*?)</figure>", section, re.DOTALL)
    assert found
    return html.unescape(found[1])


def test_routes_are_drawn_for_each_part_that_has_a_weight() -> None:
    routes = {f"route_{part}_{name}": 0.8 for part in ("ce", "kd", "rank") for name in ("mean", "p10", "p50", "p90")}
    chart = routing_of(section_of(**STEADY, **routes))
    assert re.findall(r">(labels|teacher|teacher's order)</text>", chart) == ["labels", "teacher"]
    assert chart.count("fill-opacity") == 2  # a band a part
    assert 'class="legend"' not in chart
    with_order = routing_of(section_of(**(STEADY | {"rank_weight": 0.3}), **routes))
    assert re.findall(r">(labels|teacher|teacher's order)</text>", with_order) == [
        "labels",
        "teacher",
        "teacher's order",
    ]
    assert with_order.count("fill-opacity") == 3


def test_steps_at_which_a_quantile_is_no_number_are_left_out_of_the_band() -> None:
    routes: dict[str, Any] = {f"route_ce_{name}": 0.8 for name in ("p10", "p50", "p90")}
    whole = routing_of(section_of(**STEADY, **routes))
    routes["route_ce_p90"] = lambda step: 0.8 if step > 280 else None
    part = routing_of(section_of(**STEADY, **routes))
    points = [len(re.findall(r"\bL ", chart)) for chart in (part, whole)]
    assert points[0] < points[1] / 4
    routes["route_ce_p90"] = None
    assert "<h3>Routing</h3>" not in section_of(**STEADY, **routes)


def test_weights_are_drawn_where_they_move() -> None:
    assert "Weights of the loss" not in section_of(**STEADY)
    section = section_of(**(STEADY | {"kd_weight": lambda step: 0.9 - 0.001 * step}))
    assert "Weights of the loss" in section
    assert "Routing" not in section


def test_a_training_of_before_has_neither() -> None:
    section = section_of()
    assert "Weights of the loss" not in section
    assert "Routing" not in section
    assert "order" not in section


def test_every_training_compared_with_is_drawn_and_looks_the_same_on_each_chart() -> None:
    """Seven of them, one without a temperature; by colour and dash, which the place of its name gives."""
    others = {f"run {number}": make_history(4.3, listens=number != 1) for number in range(7)}
    section = html.unescape(str(training_section(make_history(), others, None)))
    legends = [
        {label: (colour, dash) for colour, dash, label in re.findall(_ENTRY, chart)}
        for chart in re.findall(r"<figure.*?</figure>", section, re.DOTALL)
    ]
    compared = [legend for legend in legends if "run 0" in legend]
    assert len(compared) > 5
    assert sum("run 1" not in legend for legend in compared) >= 1, "a temperature"
    assert all(legend.keys() >= others.keys() - {"run 1"} for legend in compared)
    looks = {name: {legend[name] for legend in compared if name in legend} for name in others}
    assert all(len(of_one) == 1 for of_one in looks.values()), looks
    assert len(set.union(*looks.values())) == len(others)


def test_the_loss_to_the_order_is_drawn_where_there_is_one() -> None:
    assert "nats a choice" in section_of(rank=lambda step: 3.0 - 0.001 * step)


def test_a_card_s_memory_is_drawn_where_there_was_a_card() -> None:
    history = make_history()
    on_a_card = tuple(line | {"memory_share": 0.6} for line in history.timings)
    title = "<h3>Memory of the card</h3>"
    assert title in str(training_section(dataclasses.replace(history, timings=on_a_card), {}, None))
    assert title not in str(training_section(history, {}, None))
