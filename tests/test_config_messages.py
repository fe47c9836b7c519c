"""Configuration: what is refused, and in which words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.config import load_config
from pipeline.errors import ConfigError
from stages.config import RunConfig, load_run_config
from tests.minimal_config import load


@pytest.mark.parametrize(
    ("override", "unknown", "nearest"),
    [
        ("train.step=5", "train.step", "train.steps"),
        ("train.learning-rate=1", "train.learning-rate", "train.learning_rate"),
        ("traim.steps=5", "traim", "train"),
        ("steps=5", "steps", "train.steps"),
        ("temperature.start=2", "temperature", "train.temperature"),
        ("train.head_size=5", "train.head_size", "cache.head_size"),
        ("train.temperature.shap=linear", "train.temperature.shap", "train.temperature.shape"),
        ("demo.teacher_step=5", "demo.teacher_step", "demo.teacher_steps"),
    ],
)
def test_an_unknown_key_names_the_nearest_right_one(
    config_file: Path, override: str, unknown: str, nearest: str
) -> None:
    with pytest.raises(ConfigError, match=f"unknown key '{unknown}'; did you mean '{nearest}'") as caught:
        load(config_file, override)
    assert str(caught.value).startswith(f"--set {override}: ")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("train.lr", "'train.learning_rate'"),
        ("train.bs", "'train.batch_size'"),
        ("cache.batch", "'cache.batch_size'"),
        ("batch", "'cache.batch_size', 'train.batch_size' or 'eval.batch_size'"),
        ("train.temp", "'train.temperature'"),
        ("train.tau", "'train.temperature'"),
        ("train.alpha", "'train.kd_weight'"),
        ("lr", "'train.learning_rate'"),
    ],
)
def test_a_name_that_others_have_for_a_key_is_known(config_file: Path, name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"^--set {name}=1: unknown key '{name}'; did you mean {re.escape(meant)}.$"):
        load(config_file, f"{name}=1")


def test_an_unknown_key_like_nothing_says_what_lists_all(config_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"'cache.zzzz'; `sad-pipeline keys cache` lists all 11 that are known here$"):
        load(config_file, "cache.zzzz=1")
    with pytest.raises(ConfigError, match=r"'zzzz'; `sad-pipeline keys` lists all \d+ that are known here$"):
        load(config_file, "zzzz=1")
    with pytest.raises(ConfigError, match=r"'learnin_rate'; did you mean 'train.learning_rate'"):
        load(config_file, "learnin_rate=1")
    with pytest.raises(
        ConfigError, match=r"'session.zz'; known here: session\.time_budget_hours, session\.max_output_gb, "
    ):
        load(config_file, "session.zz=1")


def test_an_unknown_key_like_a_few_lists_those_alone(config_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"'train.foo'; the nearest are train.roots; `sad-pipeline keys train` lists"):
        load(config_file, "train.foo=1")
    with pytest.raises(ConfigError, match=r"'train.curve'; the nearest are (.*); `sad-pipeline keys train`") as caught:
        load(config_file, "train.curve=1")
    names = str(caught.value).partition("the nearest are ")[2].partition(";")[0].split(", ")
    assert 1 <= len(names) <= 5
    assert all(name.startswith("train.") for name in names)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=many", "^--set train.steps=many: 'train.steps': expected a whole number, found 'many'$"),
        ("train.steps=1.5", "'train.steps': expected a whole number, found 1.5$"),
        ("train.steps=-1", "'train.steps': expected at least 1, found -1$"),
        ("train.steps=on", r"found True \(yes, no, on and off are booleans in YAML\)$"),
        (
            "train.adam_betas=[0.9, no]",
            r"'train.adam_betas': this key does not take a boolean, found \[0.9, False\] \(yes, .* in YAML\)$",
        ),
        ("train.learning_rate=.inf", "'train.learning_rate': expected a finite number, found inf"),
        ("train.learning_rate=.nan", "'train.learning_rate': expected a finite number, found nan"),
        ("cache.head_size=null", "'cache.head_size': expected a whole number, found None$"),
        ("cache.roots=here", "'cache.roots': expected a list, found 'here'$"),
        ("eval.baselines=here", "'eval.baselines': expected a group of keys, found 'here'$"),
        ("name=no", r"'name': .*found False \(yes, no, on and off are booleans in YAML; put quotes around it where"),
        ("name=12", r"'name': expected text, found 12 \(put quotes around it"),
        (
            "data.source=txt",
            "'data.source': expected 'stdlib', 'text', 'jsonl', 'parquet' or 'hub', found 'txt'",
        ),
        ("train=5", "'train': expected a group of keys, found 5"),
        ("train.learning_rate=fast", "'train.learning_rate': expected a number, found 'fast'$"),
        ("train.learning_rate=0", "'train.learning_rate': expected a number above 0, found 0$"),
        ("train.temperature.start=9", "'train.temperature.start': expected at most 4, found 9$"),
        ("train.balance=perhaps", "'train.balance': expected true or false, found 'perhaps'$"),
        ("train.adam_betas=[0.9]", "'train.adam_betas.1' is missing: `sad-pipeline keys train` lists what it may say$"),
        ("train.adam_betas=[1, 2, 3]", r"'train.adam_betas': expected a list of at most 2 items, found \[1, 2, 3\]$"),
        ("eval.baselines=[a]", r"'eval.baselines': expected a group of keys, found \['a'\]$"),
        ("eval.baselines={a: no}", r"'eval.baselines.a': expected text, found False \(yes, .*; put quotes around it"),
        ("data.packing=no", r"does not take a boolean, found False \(yes, no, on and off are booleans in YAML\)$"),
        ("data.text_column=null", "'data.text_column': expected text, found None$"),
        ("eval.teacher=12", r"'eval.teacher': expected text, found 12 \(put quotes around it where text is meant\)$"),
        ("train.steps.x=5", "--set train.steps.x=5: 'steps' holds a single value, not a group of keys"),
        ("train.steps", "--set train.steps: expected key.sub=value, for example"),
        ("=5", "--set =5: expected key.sub=value"),
        ("name='", "--set name=': .* is not a YAML value"),
        ("train.epochs=2", "'train': give either train.steps or train.epochs, and null for the other; found both$"),
        ("student.config={model_type: llama}", "'student': give either student.model .* or student.config"),
        ("data.source=text", "'data': source 'text' needs data.path"),
        (
            "name=../elsewhere",
            r"'name': expected letters, digits, .* with a letter or digit first, found '../elsewhere'$",
        ),
        ("cache.draw_beta=0.6", "expected one of the stored betas 0.25, 0.3333, 0.5, 0.7, 0.9, 1, found 0.6"),
        (f"cache.seed={2**63}", f"'cache.seed': expected a number below {2**63}, found {2**63}$"),
    ],
)
def test_a_wrong_value_says_what_was_expected_and_found(config_file: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(config_file, override)


def test_keys_that_do_not_go_together_are_named_without_the_rest_of_their_section(config_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.router is trust, .* set train\.router to uniform$"):
        load(config_file, "train.router=trust", "train.ce_weight=1", "train.kd_weight=0")


def test_every_wrong_key_is_named_at_once(config_file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(config_file, "train.step=5", "cache.head_size=x", "nam=y")
    assert all(key in str(caught.value) for key in ("'train.step'", "'cache.head_size'", "'nam'"))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("data: {}\nteacher: {model: x}\nstudent: {model: y}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"(?s)'data.source' is missing.*'train' is missing"):
        load_config(RunConfig, tmp_path / "my.yaml")


def test_every_line_says_where_it_is_from(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("data: {}\nteacher: {model: x}\nstudent: {model: y}\ncache: {head_size: x}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(RunConfig, path, ("train.steps=1.5", "eval={sample_tokens: x, max_sequences: y}", "cache.seed=-1"))
    assert str(caught.value).splitlines() == [
        f"{path}: 'data.source' is missing: `sad-pipeline keys data` lists what it may say",
        f"{path}: 'cache.head_size': expected a whole number, found 'x'",
        "--set cache.seed=-1: 'cache.seed': expected at least 0, found -1",
        "--set train.steps=1.5: 'train.steps': expected a whole number, found 1.5",
        "--set eval={sample_tokens: x, max_sequences: y}: 'eval.max_sequences': expected a whole number, found 'y'",
        "--set eval={sample_tokens: x, max_sequences: y}: 'eval.sample_tokens': expected a whole number, found 'x'",
    ]


@pytest.mark.parametrize(
    ("overrides", "origin"),
    [
        (("train.steps=x", "train.steps=y"), "--set train.steps=y: "),
        (("train.steps=x", "train={steps: 1.5}"), "--set train={steps: 1.5}: "),
        (("train={steps: 5}", "train.steps=x"), "--set train.steps=x: "),
        (("train.epochs=2", "cache.seed=1"), "{file} with --set train.epochs=2: "),
        (("train={steps: 5, epochs: 2}",), "{file} with --set train={steps: 5, epochs: 2}: "),
        (("train={steps: 5}", "train.epochs=2"), "{file} with --set train={steps: 5} --set train.epochs=2: "),
        (("train.temperature.start=0.5", "train.temperature.end=2"), "--set train.temperature.start=0.5: "),
        (("train.temperature.end=2", "train.temperature.start=0.5"), "--set train.temperature.start=0.5: "),
    ],
)
def test_a_wrong_override_is_named(config_file: Path, overrides: tuple[str, ...], origin: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(config_file, *overrides)
    assert str(caught.value).startswith(origin.replace("{file}", str(config_file)))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [1", "is not valid YAML"),
        (b"\tname: x", "is not valid YAML"),
        (b"- name", "expected keys and values, found list"),
        (b"just words", "expected keys and values, found str"),
        (b"name: \xff", "cannot be read as a config"),
        (b"name: a\nname: b\n", r"(?s)the key 'name' appears twice.*line 2"),
        (b"1: a\n", "the key 1 is not text"),
        (b"on: a\n", "the key True is not text"),
        (b"name: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "my.yaml").write_bytes(text)
    with pytest.raises(ConfigError, match=message):
        load_config(RunConfig, tmp_path / "my.yaml")


def test_a_config_that_does_not_exist_lists_the_bundled_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file, and no bundled config of that name\. Bundled: .*demo"):
        load_run_config(str(tmp_path / "absent.yaml"))
    with pytest.raises(ConfigError, match="cannot be read as a config"):
        load_config(RunConfig, tmp_path)


@pytest.mark.parametrize("reference", ["kaggle-p10", "kaggle_p100", "configs/kaggle-p10.yaml"])
def test_a_config_that_is_nearly_a_bundled_one_is_guessed(reference: str) -> None:
    with pytest.raises(ConfigError, match=r"of that name; did you mean 'kaggle-p100'\? Bundled: bench, "):
        load_run_config(reference)
