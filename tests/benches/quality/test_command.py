"""bench quality for real and at toy size: figures, pairing, the picture, the report, refusals."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache import TeacherCache
from pipeline.evaluation.study.results import load_results
from tests.benches.quality.toy_study import ARMS, MARKS, Study, quality, read
from tests.stages.toys import run

pytestmark = MARKS


def test_figures_of_every_arm(study: Study) -> None:
    found = {result["name"]: result for result in study[1]["results"]}
    assert all(math.isfinite(result["value"]) for result in found.values())
    for arm in ("labels", "full", "default", "compact", "k4of320", "tau2"):
        assert found[f"quality.{arm}.kl_nats"]["value"] > 0
        assert found[f"quality.{arm}.seeds"]["value"] == 2
    for student in ("start", "labels", "full"):
        assert 0 < found[f"quality.default.gradient_angle.{student}"]["value"] < 180
        assert found[f"quality.labels.gradient_norm.{student}"]["value"] > 0
    sizes = [found[f"quality.{arm}.bytes_per_token"]["value"] for arm in ("default", "k4of320")]
    assert sizes[0] > sizes[1] > 0
    assert "quality.full.bytes_per_token" not in found
    assert found["quality.default.gain_share"]["goal"] == ">= 0.99"


def test_arms_are_paired(study: Study) -> None:
    root, _ = study
    for seed in (0, 1):
        trained = [read(path) for path in (root / "v320" / "trainings").glob(f"*/*-seed{seed}/chosen.json")]
        # All but one in the same order; that one, before all others, in an order of its own.
        assert sorted({each["identity"]["train"]["seed"] for each in trained}) == [seed, 1_000_000 + seed]
        # One begins with random weights of this seed, and all others with what that one left.
        students = [each["identity"]["student"] for each in trained]
        assert [student["seed"] for student in students if "seed" in student] == [seed]
        assert len({json.dumps(student) for student in students if "seed" not in student}) == 1
    measured = [read(path)["sequences"] for path in (root / "v320" / "trainings").glob("*/*/measured.json")]
    assert len(measured) == 12
    assert all(sequences == measured[0] for sequences in measured)


def test_a_picture_of_bytes_and_quality(study: Study) -> None:
    root = ElementTree.parse(study[0] / "quality-0.svg").getroot()
    named = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"default", "compact", "k4of320", "bytes a cached token (3 steps, V = 320, K = 16)"} <= named
    assert "tau2" not in named


def test_the_report_of_a_study_tells_it(study: Study, tmp_path: Path) -> None:
    root, printed = study
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    ended = run("report", str(root.parent))
    assert ended.code == 0, ended.stderr
    page = (root.parent / "report" / "report.html").read_text(encoding="utf-8")
    [told] = load_results(root / "quality.json")
    found = {result["name"]: result["value"] for result in printed["results"]}
    share = f"{100 * found['quality.compact.gain_share']:,.1f}%".replace("-", "\N{MINUS SIGN}")
    for words in (
        "Bytes against quality",
        "train.temperature: 2",
        "cache.head_size: 4",
        share,
        "3 steps, V = 320, K = 16",
    ):
        assert words in page
    assert (told.setting.teacher, told.setting.text) == (None, "stdlib")
    assert told.setting.num_sequences == 4
    assert 0 < told.setting.num_positions <= 4 * 64
    assert 0 < told.setting.student_parameters < told.setting.teacher_parameters * 2
    assert told.setting.teacher_ce_nats == pytest.approx(_teacher_ce(root), rel=1e-6)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before


def _teacher_ce(root: Path) -> float:
    """By whole sequences of the default's cache, as each training's measured.json names them."""
    sequences = read(next((root / "v320" / "trainings").glob("*/*/measured.json")))["sequences"]
    with TeacherCache.open(root / "v320" / "caches" / "default" / "cache") as cache:
        parts = [cache[index] for index in sequences]
        nats = [-part.records.label_logprobs_T[part.loss_mask_T].astype(np.float64) for part in parts]
    return float(np.concatenate(nats).mean())


def test_kept_trainings_of_other_settings_are_refused(study: Study) -> None:
    ended = quality(study[0].parent, *ARMS, train__clip_norm="0.5")
    assert ended.code == 3
    assert "train.clip_norm: 1.0 -> 0.5" in ended.stderr
    assert "--run-dir" in ended.stderr


def test_what_cannot_be_studied_is_refused_before_any_work(tmp_path: Path) -> None:
    ended = quality(tmp_path, "--arms", "tau9")
    assert (ended.code, "no arm is called tau9" in ended.stderr) == (2, True)
    assert not (tmp_path / "quality").exists()
    ended = quality(tmp_path, *ARMS, train__validation_sequences="1000")
    assert (ended.code, "none is left to measure on" in ended.stderr.replace("\n", " ")) == (2, True)
