"""Configuration: what wins over what, YAML's traps, bundled configs, dumping."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import (
    Section,
    dump_config,
    free,
    load_config,
    parse_config,
)
from pipeline.errors import ConfigError
from stages.config import RunConfig, bundled_configs, load_run_config
from tests.minimal_config import MINIMAL, load

# ------------------------------------------------------------------ who wins


def test_defaults_then_file_then_command_line(config_file: Path) -> None:
    assert load(config_file).cache.head_size == 256
    assert load(config_file, more="cache: {head_size: 64}").cache.head_size == 64
    assert load(config_file, "cache.head_size=32", more="cache: {head_size: 64}").cache.head_size == 32
    assert load(config_file, "cache.head_size=32", "cache.head_size=16").cache.head_size == 16


def test_sizes_that_are_not_given_are_those_of_the_kind(config_file: Path) -> None:
    kinds = {kind: load(config_file, f"cache.kind={kind}").cache for kind in ("topk", "compact", "sampled")}
    assert [kind.num_draws for kind in kinds.values()] == [32, 16, 50]
    assert [kind.draw_beta for kind in kinds.values()] == [0.7, 0.7, 1.0]
    assert (kinds["topk"].head_size, kinds["compact"].head_size) == (256, 64)
    assert load(config_file, "cache.kind=compact", "cache.head_size=32").cache.head_size == 32
    for resolved in kinds.values():
        assert type(resolved).model_validate(resolved.model_dump()) == resolved


@pytest.mark.parametrize(
    ("overrides", "ends"),
    [
        ((), (1.2, 1.2)),
        (("cache.kind=compact",), (1.2, 1.2)),
        (("cache.kind=sampled",), (1.0, 1.0)),
        (("cache.kind=sampled", "train.temperature.shape=constant"), (1.0, 1.0)),
        (("cache.kind=sampled", "train.temperature.start=2"), (2.0, 2.0)),  # refused when the cache is there
        (("cache={kind: sampled}", "train.temperature={start: 1.0, end: 1.0}"), (1.0, 1.0)),
    ],
)
def test_a_temperature_that_is_not_given_is_one_the_kind_is_right_at(
    config_file: Path, overrides: tuple[str, ...], ends: tuple[float, float]
) -> None:
    config = load(config_file, *overrides)
    assert (config.train.temperature.start, config.train.temperature.end) == ends
    assert type(config).model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    ("overrides", "more", "ends"),
    [
        (("train.temperature=1.5",), "", (1.5, 1.5)),
        ((), "temperature: 2", (2.0, 2.0)),
        (("train.temperature=3",), "temperature: {start: 2, end: 1, shape: cosine}", (3.0, 3.0)),
        (("train.temperature.end=1",), "temperature: 2", (2.0, 1.0)),
        (("train.temperature=2", "train.temperature.end=1"), "", (2.0, 1.0)),
        (("cache.kind=sampled", "train.temperature=1"), "", (1.0, 1.0)),
        (("cache.kind=sampled", "train.temperature=2"), "", (2.0, 2.0)),  # refused when the cache is there
        (("cache.kind=sampled",), "temperature: 1.5", (1.5, 1.5)),
    ],
)
def test_a_plain_number_is_a_constant_temperature(
    overrides: tuple[str, ...], more: str, ends: tuple[float, float], tmp_path: Path
) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(MINIMAL.replace("{steps: 5}", f"{{steps: 5, {more}}}" if more else "{steps: 5}"), encoding="utf-8")
    config = load_config(RunConfig, path, overrides)
    temperature = config.train.temperature
    assert (temperature.start, temperature.end, temperature.shape) == (*ends, "linear")
    path.write_bytes(dump_config(config))
    assert f"    start: {ends[0]}\n    end: {ends[1]}\n" in path.read_text(encoding="utf-8")
    assert load_config(RunConfig, path) == config


@pytest.mark.parametrize("value", ["warm", "yes", "[1, 2]", "'1.5'"])
def test_what_is_no_temperature_is_refused(config_file: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"'train\.temperature': expected a number or a group of keys, found"):
        load(config_file, f"train.temperature={value}")


def test_one_key_on_the_command_line_leaves_its_neighbours(config_file: Path) -> None:
    config = load(config_file, "train.temperature.start=3", "train.batch_size=2")
    assert (config.train.steps, config.train.batch_size) == (5, 2)
    assert (config.train.temperature.start, config.train.temperature.end) == (3.0, 3.0)


def test_a_whole_group_can_be_given_on_the_command_line(config_file: Path) -> None:
    config = load(config_file, "eval.baselines={plain: some/model}", "cache.roots=[a, b]")
    assert config.eval.baselines == {"plain": "some/model"}
    assert config.cache.roots == ["a", "b"]


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    class Small(Section):
        size: int = free(3)

    path = tmp_path / "empty.yaml"
    path.write_text("# nothing yet\n", encoding="utf-8")
    assert load_config(Small, path).size == 3


def test_a_group_whose_keys_are_all_commented_out_is_all_defaults(config_file: Path) -> None:
    assert load(config_file, more="cache:\n  # head_size: 3\n").cache.head_size == 256
    assert load(config_file, "cache.head_size=3", more="cache:\n").cache.head_size == 3


def test_defaults_are_not_shared_between_configs(config_file: Path) -> None:
    load(config_file).cache.roots.append("leaked")
    assert load(config_file).cache.roots == []


# ------------------------------------------------------------------ YAML's traps


def test_numbers_reach_keys_of_every_type(config_file: Path) -> None:
    config = load(
        config_file,
        "train.steps=1e3",
        "train.learning_rate=1e-4",
        "train.ce_weight=1",
        "student.model=null",
        "student.config={model_type: llama, rope_theta: 1e6, rms_norm_eps: 1e-6}",
    )
    assert config.train.steps == 1000
    assert config.train.learning_rate == 1e-4
    assert config.train.ce_weight == 1.0
    assert config.student.config == {"model_type": "llama", "rope_theta": 1e6, "rms_norm_eps": 1e-6}


# ------------------------------------------------------------------ bundled configs, dumping


@pytest.mark.parametrize("name", sorted(bundled_configs()))
def test_a_bundled_config_loads_and_dumps_to_itself(name: str, tmp_path: Path) -> None:
    config = load_run_config(name)
    assert config.name == name
    path = tmp_path / "config.yaml"
    path.write_bytes(dump_config(config))
    assert load_config(RunConfig, path) == config
    assert dump_config(load_config(RunConfig, path)) == dump_config(config)


def test_dumping_keeps_text_that_looks_like_something_else(config_file: Path, tmp_path: Path) -> None:
    config = load(config_file, "name='1e-4'", "teacher.revision='1234e56'", "student.model='no'", "eval.teacher='ü: x'")
    path = tmp_path / "config.yaml"
    path.write_bytes(dump_config(config))
    assert load_config(RunConfig, path) == config


def test_values_can_come_from_elsewhere_than_a_file() -> None:
    class Small(Section):
        size: int = free(3, ge=1)

    assert parse_config(Small, {"size": 4}, where="here").size == 4
    with pytest.raises(ConfigError, match=r"^here: 'size': expected at least 1, found 0$"):
        parse_config(Small, {"size": 0}, where="here")


def test_a_rounded_beta_means_the_stored_one(config_file: Path) -> None:
    assert load(config_file, "cache.draw_beta=0.333").cache.draw_beta == 1 / 3
