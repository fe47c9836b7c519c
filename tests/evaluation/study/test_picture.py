"""Pictures of a study: which arms are in them, and files that a README can embed."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from pipeline.evaluation.series import Chart
from pipeline.evaluation.study.picture import bytes_chart, draw_pictures, training_chart
from pipeline.evaluation.study.results import StudyResult, save_results
from tests.evaluation.studies import crowded_study, real_study, study_of_one_seed

SVG = "{http://www.w3.org/2000/svg}"


def words_of(chart: Chart | None) -> set[str]:
    assert chart is not None
    root = ElementTree.fromstring(chart.svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
    return {element.text or "" for element in root.iter(f"{SVG}text")}


def only(study: StudyResult, *names: str) -> StudyResult:
    return dataclasses.replace(study, findings={name: study.findings[name] for name in names})


def test_arms_of_the_defaults_cache_are_told_apart_by_training_and_the_others_by_bytes() -> None:
    study = crowded_study()
    by_bytes, by_training = words_of(bytes_chart("a", study)), words_of(training_chart("b", study))
    caches = {"compact", "sampled", "k2of4096", "k4of4096", "k8of4096", "k16of4096", "lossless"}
    ways = {"bucket", "subset", "tau1_5", "tau3to2", "router_trust", "ema"}
    names = set(study.findings)
    assert by_bytes & names == caches | {"default"}
    assert by_training & names == ways | {"default"}
    assert "bytes a cached token (1,200 steps, V = 4,096, K = 32)" in by_bytes
    assert "full distillation" in by_bytes
    assert {"full distillation", "labels only", "98%", "63%", "\N{MINUS SIGN}1%"} <= by_training


def test_the_same_bytes_from_another_cache_are_a_spot() -> None:
    study = real_study()
    twin = dataclasses.replace(study.findings["default"], arm="twin", changes={"cache.draw_beta": 1.0})
    study = dataclasses.replace(study, findings={**study.findings, "twin": twin})
    assert {"twin", "default"} <= words_of(bytes_chart("a", study))
    assert "twin" not in words_of(training_chart("b", study))


def test_without_intervals_there_are_spots_alone() -> None:
    study = study_of_one_seed()
    chart = bytes_chart("a", study)
    assert words_of(chart) & set(study.findings) == {"compact"}
    assert chart is not None
    assert 'stroke-width: 1.2"' not in chart.svg  # no whisker
    whiskered = bytes_chart("a", real_study())
    assert whiskered is not None
    assert whiskered.svg.count('stroke-width: 1.2"') == 3


def test_where_nothing_can_be_compared_there_is_no_chart() -> None:
    study = real_study()
    for names in (("labels", "full"), ("default", "full"), ("default", "labels"), ("default",)):
        assert bytes_chart("a", only(study, *names)) is None, names
        assert training_chart("a", only(study, *names)) is None, names
    assert training_chart("a", only(study, "labels", "full", "default", "compact")) is None  # the default is alone


def test_every_study_is_drawn_beside_its_figures(tmp_path: Path) -> None:
    studies = (real_study(), only(real_study(), "labels", "full"), crowded_study())
    save_results(tmp_path / "quality.json", studies, {})
    drawn = draw_pictures(tmp_path / "quality.json")
    assert [path.name for path in drawn] == ["quality-0.svg", "quality-2.svg"]
    for path, study in zip(drawn, (studies[0], studies[2]), strict=True):
        root = ElementTree.parse(path).getroot()
        assert float(root.attrib["width"]) > 600
        assert f"bytes a cached token ({study.title})" in {element.text for element in root.iter(f"{SVG}text")}
    before = drawn[0].read_bytes()
    draw_pictures(tmp_path / "quality.json")
    assert drawn[0].read_bytes() == before
