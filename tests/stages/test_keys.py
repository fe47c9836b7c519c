"""keys: every key that a config may hold, found by section or by a part of its name."""

from __future__ import annotations

import json

import pytest
import yaml

from pipeline.config import dump_config
from pipeline.config_keys import MEANING, keys_of
from stages.config import RunConfig, bundled_configs, load_run_config
from tests.stages.toys import Toy, run


def leaves(values: dict[str, object], prefix: str = "") -> set[str]:
    """Dotted names of all that is no group."""
    found = set()
    for name, value in values.items():
        group = isinstance(value, dict) and prefix + name not in FREE_FORM
        found |= leaves(value, f"{prefix}{name}.") if group else {prefix + name}  # type: ignore[arg-type]
    return found


FREE_FORM = ("student.config", "demo.teacher", "eval.baselines")


def test_every_key_of_a_resolved_config_is_listed_and_says_what_it_is() -> None:
    keys = list(keys_of(RunConfig))
    names = [key.name for key in keys]
    assert len(names) == len(set(names))
    assert set(names) == leaves(yaml.safe_load(dump_config(load_run_config("demo"))))
    for key in keys:
        assert len(key.doc) > 4, key.name
        assert key.kind in MEANING


def test_a_default_is_what_a_config_gets_that_does_not_say() -> None:
    """Where nothing else depends on it: of the smallest config every value is the listed one."""
    small = RunConfig(
        data={"source": "stdlib"},
        teacher={"model": "a"},
        student={"model": "b"},
        train={"steps": 1},  # type: ignore[arg-type]
    )
    values = small.model_dump(mode="json")
    given = ("data.source", "teacher.model", "student.model", "train.steps")
    for key in keys_of(RunConfig):
        if key.name not in given and not key.name.startswith("demo."):
            found = values
            for part in key.name.split("."):
                found = found[part]
            assert found == key.default, key.name
        if key.name in given[:2]:
            assert key.required


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("session", ["session.time_budget_hours", "session.max_output_gb", "session.output_folders"]),
        ("train.temperature", [f"train.temperature.{name}" for name in ("start", "end", "shape")]),
        ("cache.head_size", ["cache.head_size"]),
        ("draw", ["cache.num_draws", "cache.draw_beta"]),
    ],
)
def test_a_section_or_a_part_of_a_name(wanted: str, names: list[str]) -> None:
    ended = run("keys", wanted, "--json")
    assert (ended.code, ended.stderr) == (0, "")
    assert [key["name"] for key in json.loads(ended.stdout)] == names
    text = run("keys", wanted).stdout
    assert all(name in text for name in names)


def test_the_values_of_a_config_take_the_place_of_defaults() -> None:
    [key] = json.loads(run("keys", "train.learning_rate", "-c", "kaggle-t4x2", "--json").stdout)
    assert key["default"] == load_run_config("kaggle-t4x2").train.learning_rate != 1e-3
    for name in bundled_configs():
        assert run("keys", "-c", name).code == 0


def test_a_dataset_may_be_a_folder() -> None:
    [key] = json.loads(run("keys", "data.dataset", "--json").stdout)
    assert "or a folder" in key["doc"]


def test_a_key_that_is_not_there_is_told_with_the_nearest() -> None:
    ended = run("keys", "learnin_rate")
    assert ended.code == 2
    assert "did you mean 'train.learning_rate'" in ended.stderr
    assert "'train.learning_rate'" in run("keys", "lr").stderr
    ended = run("keys", "xyzzy")
    assert (ended.code, "`sad-pipeline keys` lists all" in ended.stderr) == (2, True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("student.revision=main",), "student.revision is set and not used, for student.config makes a fresh model"),
        (
            ("student.config=null", "student.model=a/b", "student.seed=1"),
            "student.seed is set and not used, for student.model has its weights",
        ),
        (("student.config=null", "student.model=a/b", "student.revision=main"), ""),
    ],
)
def test_keys_of_the_student_that_do_nothing_are_said(
    settings: tuple[str, ...], words: str, toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    load_run_config(str(toy.config), settings)
    said = " ".join(capsys.readouterr().err.split())
    assert words in said
    assert words or "not used" not in said
