"""quality.json: what was written comes back; what is damaged or of another version is refused, with what and where."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DamagedDataError
from pipeline.evaluation.study.results import load_results, save_results
from tests.evaluation.studies import crowded_study, real_study, study_of_one_seed

STUDIES = (real_study(), crowded_study(), study_of_one_seed())
Value = dict[str, Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_results(tmp_path / "quality.json", STUDIES, {"quality.default.gain_share": 0.98})
    return tmp_path / "quality.json"


def test_what_was_written_comes_back(path: Path) -> None:
    assert load_results(path) == STUDIES
    assert [list(study.findings) for study in load_results(path)] == [list(study.findings) for study in STUDIES]
    value = json.loads(path.read_text(encoding="utf-8"))
    assert (value["format"], value["figures"]) == (1, {"quality.default.gain_share": 0.98})


def finding(value: Value) -> Value:
    """The default's, of the first study."""
    found: Value = next(each for each in value["studies"][0]["findings"] if each["arm"] == "default")
    return found


def put(target: Callable[[Value], Any], key: Any, content: Any) -> Callable[[Value], None]:
    return lambda value: target(value).__setitem__(key, content)


def study(value: Value) -> Value:
    first: Value = value["studies"][0]
    return first


def setting(value: Value) -> Value:
    found: Value = study(value)["setting"]
    return found


DAMAGE: dict[str, tuple[Callable[[Value], Any], str]] = {
    "no version": (lambda value: value.pop("format"), "expected study format 1, found None"),
    "a later version": (put(lambda value: value, "format", 2), "expected study format 1, found 2"),
    "no studies": (put(lambda value: value, "studies", []), "studies: expected a list that is not empty, found []"),
    "studies of another kind": (put(lambda value: value, "studies", {}), "studies: expected a list"),
    "a study that is none": (put(lambda value: value["studies"], 0, 7), "a study: expected an object, found 7"),
    "no title": (put(study, "title", ""), "title: expected text, found ''"),
    "no setting": (lambda value: study(value).pop("setting"), "a study: setting is missing"),
    "half a setting": (lambda value: setting(value).pop("text"), "setting: text is missing"),
    "a word for a count": (put(setting, "steps", "many"), "setting, steps: expected a count, found 'many'"),
    "a true count": (put(setting, "steps", True), "setting, steps: expected a count, found True"),
    "a count below zero": (put(setting, "num_positions", -1), "setting, num_positions: expected a count, found -1"),
    "a teacher of another kind": (put(setting, "teacher", 3), "setting, teacher: expected text, found 3"),
    "an arm twice": (lambda value: study(value)["findings"].append(finding(value)), "an arm comes twice: ['default']"),
    "a field too many": (put(finding, "mood", 1), "a finding: mood is not a field of this version"),
    "a field too few": (lambda value: finding(value).pop("students"), "a finding: students is missing"),
    "no name": (put(finding, "arm", None), "arm: expected text, found None"),
    "no rate": (put(finding, "learning_rate", 0), "arm 'default': learning_rate: expected a number above 0, found 0"),
    "a wild number": (put(finding, "learning_rate", 10**400), "learning_rate: expected a number above 0"),
    "a truth for a number": (put(finding, "bytes_per_token", True), "bytes_per_token: expected a number above 0"),
    "a number for a truth": (put(finding, "at_an_edge", 1), "at_an_edge: expected true or false, found 1"),
    "no student": (put(finding, "students", {}), "students: expected at least one, found none"),
    "a list of students": (put(finding, "students", [1]), "students: expected an object, found [1]"),
    "a seed that is no number": (put(finding, "students", {"1_0": {}}), "students: expected seeds, found '1_0'"),
    "half a student": (put(finding, "students", {"0": {"ce_nats": 5.0}}), "seed 0: kl_nats is missing"),
    "no loss": (
        put(finding, "students", {"0": {"ce_nats": None, "kl_nats": 1.0}}),
        "students, seed 0, ce_nats: expected a number, found None",
    ),
    "half a gradient": (put(finding, "gradients", {"full": [3.0]}), "full: expected degrees and a norm, found [3.0]"),
    "changes of another kind": (put(finding, "changes", "none"), "changes: expected an object, found 'none'"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused_with_what_and_where(path: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    value = copy.deepcopy(json.loads(path.read_text(encoding="utf-8")))
    damage(value)
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(DamagedDataError) as refused:
        load_results(path)
    assert str(path) in str(refused.value)
    assert message in str(refused.value)
    assert "Run `sad-pipeline bench quality` again as before" in str(refused.value)


def test_a_figure_that_has_changed_is_refused(path: Path) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    value["studies"][0]["setting"]["num_positions"] += 1
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(
        DamagedDataError, match=r"the digest it names\. Run `sad-pipeline bench quality` again as before"
    ):
        load_results(path)
    del value["digest"]
    path.write_text(json.dumps(value), encoding="utf-8")
    assert load_results(path)[0].setting.num_positions == value["studies"][0]["setting"]["num_positions"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 1, "studies": NaN}', '{"format": 1, "format": 1}'])
def test_what_is_no_json_object_is_refused(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DamagedDataError, match=r"quality\.json: .*\. Run `sad-pipeline bench quality` again as before"):
        load_results(path)
