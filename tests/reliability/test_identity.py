"""Identity: what would mix two caches or two trainings is refused before compute, with the difference shown.

Every key is found in the config itself, so that a new one without a case fails here.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.config import load_run_config
from tests import tiny
from tests.reliability.damaging import other_tokenizer
from tests.reliability.identities import (
    BY_WHAT_THEY_NAME,
    CACHES,
    IDENTITY,
    SCHEDULE,
    TEACHER_FIELDS,
    TOKENIZER_FIELDS,
    TRAININGS,
    Case,
    known_keys,
    set_field,
)
from tests.reliability.tally import LONG, Tally
from tests.stages.toys import Toy, copy, tree

WEIGHT_FLIPS = 40 if LONG else 8
Begun = Callable[[str, str], tuple[Path, list[str]]]


@pytest.fixture(scope="module")
def begun(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Begun:
    """Runs that were begun with some settings, each made when it is first asked for: its folder and these settings."""
    folder, made = tmp_path_factory.mktemp("begun"), {}
    texts = [path.read_text(encoding="utf-8") for path in sorted(toy.texts.iterdir())]
    lines = [json.dumps({"text": text, "chat": [{"role": "user", "content": text}]}) for text in texts]
    (folder / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")

    def begin(stage: str, base: str) -> tuple[Path, list[str]]:
        if (stage, base) not in made:
            settings = (CACHES if stage == "cache-teacher" else TRAININGS)[base]
            if base == "model":
                for name, seed in (("one", 1), ("two", 2)):
                    tiny.save_model(folder / name, seed=seed)
            options = _options(settings, folder)
            run_dir = folder / f"{stage}-{base}"
            if stage == "train-student":
                copy(begin("cache-teacher", "plain")[0], run_dir)
            toy.ran(stage, run_dir, *options)
            made[stage, base] = run_dir, options
        return made[stage, base]

    return begin


@contextlib.contextmanager
def no_compute() -> Iterator[None]:
    """No module of any model is called."""
    called: list[str] = []

    def call(module: torch.nn.Module, *_: Any, **__: Any) -> Any:
        called.append(type(module).__name__)
        raise AssertionError(f"a forward pass through {type(module).__name__}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "__call__", call)
        yield
    assert not called, called


def test_every_key_has_a_case(toy: Toy) -> None:
    config = load_run_config(str(toy.config))
    assert known_keys(config, "identity") == set(IDENTITY)
    assert known_keys(config, "schedule") == set(SCHEDULE) | BY_WHAT_THEY_NAME


@pytest.mark.parametrize("key", IDENTITY)
def test_identity(key: str, toy: Toy, begun: Begun, tally: Tally) -> None:
    """A key that shapes a cache, on a run that has one: by who writes it, and by who reads it."""
    case = IDENTITY[key]
    run_dir, options = begun("cache-teacher", case.base)
    plan = json.loads((run_dir / "cache" / "plan.json").read_bytes())
    was = plan["identity"]["settings"].get(key, plan["capture"].get(key.partition(".")[2]))
    for stage in ("cache-teacher", "train-student"):
        _refused(toy, stage, run_dir, options, key, case, was)
        tally.point(f"{stage} {key}")


@pytest.mark.parametrize("key", SCHEDULE)
def test_schedule(key: str, toy: Toy, begun: Begun, tally: Tally) -> None:
    """A key that shapes a training, on a run whose training has begun."""
    case = SCHEDULE[key]
    run_dir, options = begun("train-student", case.base)
    _refused(toy, "train-student", run_dir, options, key, case, _value(toy, options, key))
    tally.point(key)


def _refused(toy: Toy, stage: str, run_dir: Path, options: list[str], key: str, case: Case, was: Any) -> None:
    """Exit code 3, key, before and now, without compute; and the run is what it was."""
    changed = [*options, *_options((f"{key}={case.value}", *case.more), run_dir.parent)]
    now = _value(toy, changed, key)
    refuse(toy, stage, run_dir, changed, f"  {case.shown}: " if case.shown else f"  {key}: {was!r} -> {now!r}\n")


def refuse(toy: Toy, stage: str, run_dir: Path, options: list[str], *words: str) -> None:
    """The stage ends with 3 and says these words; no model is called, and no file of the run is another."""
    before = tree(run_dir)
    with no_compute():
        ended = toy.run(stage, run_dir, *options)
    assert ended.code == 3, ended.stderr
    for word in words:
        assert word in ended.stderr, f"expected {word!r} in {ended.stderr}"
    assert tree(run_dir) == before


def _options(settings: tuple[str, ...], folder: Path) -> list[str]:
    return [part for setting in settings for part in ("--set", setting.format(folder=folder))]


def _value(toy: Toy, options: list[str], key: str) -> Any:
    """What a config says of a key."""
    value: Any = load_run_config(str(toy.config), tuple(options[1::2])).model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


# ------------------------------------------------------------------ what is not in the config


@pytest.mark.parametrize("number", range(WEIGHT_FLIPS))
def test_one_bit_of_the_teacher(number: int, toy: Toy, begun: Begun, tally: Tally, tmp_path: Path) -> None:
    """Weights that differ in one bit, anywhere; a file of this size is read as a whole."""
    run_dir, options = begun("cache-teacher", "plain")
    teacher, chance = copy(toy.teacher, tmp_path / "teacher"), random.Random(number)
    data = bytearray((teacher / "model.safetensors").read_bytes())
    data[-1 - chance.randrange(len(data) - 4096)] ^= 1 << chance.randrange(8)
    (teacher / "model.safetensors").write_bytes(data)
    changed = [*options, "--set", f"teacher.model={teacher}"]
    refuse(toy, "cache-teacher", run_dir, changed, "teacher.files.model.safetensors.samples_sha256: ")
    tally.point("a bit of the teacher")


@pytest.mark.parametrize("field", TEACHER_FIELDS)
def test_one_field_of_the_teachers_config(field: str, toy: Toy, begun: Begun, tally: Tally, tmp_path: Path) -> None:
    run_dir, options = begun("cache-teacher", "plain")
    teacher = copy(toy.teacher, tmp_path / "teacher")
    set_field(teacher / "config.json", field, TEACHER_FIELDS[field])
    refuse(toy, "cache-teacher", run_dir, [*options, "--set", f"teacher.model={teacher}"], "teacher.config_sha256: ")
    tally.point(f"teacher, {field}")


@pytest.mark.parametrize("field", TOKENIZER_FIELDS)
def test_one_field_of_the_tokenizer(field: str, toy: Toy, begun: Begun, tally: Tally, tmp_path: Path) -> None:
    run_dir, options = begun("cache-teacher", "plain")
    teacher, (name, key, value) = copy(toy.teacher, tmp_path / "teacher"), TOKENIZER_FIELDS[field]
    set_field(teacher / name, key, value)
    refuse(toy, "cache-teacher", run_dir, [*options, "--set", f"teacher.model={teacher}"], "  tokenizer.")
    tally.point(f"tokenizer, {field}")


def test_a_chat_template(toy: Toy, begun: Begun, tally: Tally, tmp_path: Path) -> None:
    run_dir, options = begun("cache-teacher", "jsonl")
    teacher = copy(toy.teacher, tmp_path / "teacher")
    template = teacher / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8").replace("assistant", "helper"), encoding="utf-8")
    changed = [*options, "--set", f"teacher.model={teacher}"]
    refuse(toy, "cache-teacher", run_dir, changed, "tokenizer.chat_template_sha256: ")
    tally.point("tokenizer, its chat template")


def test_another_tokenizer(toy: Toy, begun: Begun, tally: Tally, tmp_path: Path) -> None:
    run_dir, options = begun("cache-teacher", "plain")
    teacher = copy(toy.teacher, tmp_path / "teacher")
    other_tokenizer(teacher / "tokenizer.json")
    changed = [*options, "--set", f"teacher.model={teacher}"]
    refuse(toy, "cache-teacher", run_dir, changed, "tokenizer.vocabulary_sha256: ", "tokenizer.behaviour_sha256: ")
    tally.point("another tokenizer")


@pytest.mark.parametrize("change", ["longer", "shorter", "one more", "one less", "renamed"])
def test_other_texts(change: str, toy: Toy, begun: Begun, tally: Tally, tmp_path: Path) -> None:
    run_dir, options = begun("cache-teacher", "plain")
    texts = copy(toy.texts, tmp_path / "texts")
    first = texts / "000.txt"
    content = first.read_bytes()
    first.unlink()
    if change != "one less":
        changed = {"longer": content + b"x", "shorter": content[:-1]}.get(change, content)
        (texts / ("zzz.txt" if change == "renamed" else first.name)).write_bytes(changed)
    if change == "one more":
        (texts / "more.txt").write_bytes(content)
    refuse(toy, "cache-teacher", run_dir, [*options, "--set", f"data.path={texts}"], "source.names_and_sizes_sha256: ")
    tally.point(f"texts, {change}")


def test_other_texts_for_lost_sequences(toy: Toy, begun: Begun, tally: Tally, tmp_path: Path) -> None:
    """Texts of the same names and sizes pass for the same until they are packed again; then their sequences tell."""
    made, options = begun("cache-teacher", "plain")
    run_dir, texts = copy(made, tmp_path / "run"), copy(toy.texts, tmp_path / "texts")
    (run_dir / "cache" / "sequences.shard").unlink()
    content = (texts / "000.txt").read_text(encoding="utf-8")
    (texts / "000.txt").write_text(content.swapcase(), encoding="utf-8")
    changed = [*options, "--set", f"data.path={texts}"]
    refuse(toy, "cache-teacher", run_dir, changed, "gives other sequences than the plan was made with")
    tally.point("texts, as long, for lost sequences")
