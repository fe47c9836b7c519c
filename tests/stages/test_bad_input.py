"""What bad input gets: the exit code, a message that teaches, and nothing half-written or lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cache import TeacherCache
from tests import tiny
from tests.stages.refusals import nothing_half_written, refuse
from tests.stages.toys import Toy, copy, make_toy, run, status, tree

# ------------------------------------------------------------------ the config


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.lerning_rate=1e-3", ("unknown key 'train.lerning_rate'", "'train.learning_rate'")),
        ("cach.head_size=8", ("unknown key 'cach'", "'cache'")),
        ("cache.head_size=many", ("'cache.head_size'", "expected a whole number", "'many'")),
        ("cache.head_size=0", ("'cache.head_size'", "expected at least 1", "found 0")),
        ("train.temperature.start=7", ("'train.temperature.start'", "expected at most 4")),
        ("train.epochs=2", ("give either train.steps or train.epochs",)),
        ("student.model=x", ("give either student.model", "or student.config")),
        ("data.source=cloud", ("'data.source'", "'stdlib'", "found 'cloud'")),
        ("teacher.device=no", ("'teacher.device'", "found False", "YAML")),
        ("nonsense", ("expected key.sub=value",)),
    ],
)
def test_a_wrong_config_is_refused_before_anything_is_made(
    setting: str, words: tuple[str, ...], toy: Toy, tmp_path: Path
) -> None:
    refuse(toy.run("cache-teacher", tmp_path / "run", "--set", setting), 2, *words)
    assert not (tmp_path / "run").exists()


def test_a_missing_config_names_the_bundled_ones(tmp_path: Path) -> None:
    names = "Bundled: bench, demo, kaggle-chat, kaggle-p100, kaggle-t4x2, original-3.0"
    refuse(run("cache-teacher", "-c", str(tmp_path / "no.yaml")), 2, "no.yaml: no such file", names)


def test_a_config_that_is_not_yaml(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("data: [1, 2\n")
    refuse(run("cache-teacher", "-c", str(tmp_path / "broken.yaml")), 2, "is not valid YAML")


# ------------------------------------------------------------------ text and models that are not there, or do not fit


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data.path={tmp}/nowhere", ("{tmp}/nowhere",)),
        ("data.path={tmp}/empty", ("{tmp}/empty",)),
        ("data.path={tmp}/blank", ("of 2 read none is usable", "2 empty: a.txt, b.txt", "Check data.path")),
        ("teacher.model={tmp}/nowhere", ("error: {tmp}/nowhere: no such folder; expected one with config.json",)),
        ("teacher.model=nowhere/", ("error: nowhere/: no such folder; expected one with config.json", "as seen from")),
        ("teacher.model=../nowhere/x", ("error: ../nowhere/x: no such folder; expected one", "as seen from")),
        ("teacher.model={tmp}/empty", ("{tmp}/empty",)),
        ("cache.roots=[{tmp}/nowhere]", ("{tmp}/nowhere: no such folder",)),
        ("data.sequence_length=200", ("200", "128", "data.sequence_length")),
    ],
)
def test_cache_teacher_on_what_is_not_there(setting: str, words: tuple[str, ...], toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "blank" / name).write_text("")
    ended = toy.run("cache-teacher", tmp_path / "run", "--set", setting.format(tmp=tmp_path))
    refuse(ended, 2, *(word.format(tmp=tmp_path) for word in words))
    assert status(tmp_path / "run")["state"] == "failed"
    assert not (tmp_path / "run" / "cache").exists()
    nothing_half_written(tmp_path / "run")


def test_a_teacher_below_the_home_folder(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part of it is found there, its tokenizer too."""
    monkeypatch.setenv("HOME", str(toy.teacher.parent))
    toy.ran("cache-teacher", tmp_path / "run", "--set", f"teacher.model='~/{toy.teacher.name}/'")


def test_a_teacher_without_safetensors(toy: Toy, tmp_path: Path) -> None:
    folder = copy(toy.teacher, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    ended = toy.run("cache-teacher", tmp_path / "run", "--set", f"teacher.model={folder}")
    refuse(ended, 2, "expected model.safetensors", "pytorch_model.bin", "Only safetensors are read", "save_pretrained")
    nothing_half_written(tmp_path / "run")


def test_damaged_weights(toy: Toy, tmp_path: Path) -> None:
    folder = copy(toy.teacher, tmp_path / "cut")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    refuse(toy.run("cache-teacher", tmp_path / "run", "--set", f"teacher.model={folder}"), 2, str(folder))


def test_a_teacher_with_fewer_rows_than_ids(toy: Toy, tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "small", vocab_size=250, bos_token_id=1, eos_token_id=1, pad_token_id=1)
    ended = toy.run("cache-teacher", tmp_path / "run", "--set", f"teacher.model={folder}")
    refuse(ended, 2, "ids up to 258", "250 rows")
    nothing_half_written(tmp_path / "run")


@pytest.mark.parametrize("setting", ["teacher.model=some-body/some-teacher", "student.model=some-body/some-student"])
def test_an_unreachable_hub(setting: str, toy: Toy, cached: Path, tmp_path: Path) -> None:
    """HF_HUB_OFFLINE is set for all tests: no hub can be reached."""
    stage = "train-student" if setting.startswith("student") else "cache-teacher"
    options = ["--set", f"cache.roots=[{cached}]", "--set", "student.config=null"] if stage == "train-student" else []
    ended = toy.run(stage, tmp_path / "run", *options, "--set", setting)
    refuse(ended, 2, "some-body/some-", "hub")
    nothing_half_written(tmp_path / "run")


def test_an_unreachable_hub_dataset(toy: Toy, tmp_path: Path) -> None:
    options = ["--set", "data.source=hub", "--set", "data.dataset=some-body/some-text"]
    refuse(
        toy.run("cache-teacher", tmp_path / "run", *options),
        2,
        "some-body/some-text",
        "HF_HUB_OFFLINE",
        "`sad-pipeline doctor -c CONFIG` says how",
    )
    nothing_half_written(tmp_path / "run")


def test_more_ids_in_the_head_than_there_are_is_fine(toy: Toy, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    options = ["--set", "cache.head_size=1000", "--set", "data.max_documents=6"]
    toy.ran("cache-teacher", run_dir, *options)
    toy.ran("train-student", run_dir, *options, "--set", "train.steps=2")
    with TeacherCache.open(run_dir) as cache:
        assert (cache.plan.layout.head_size, cache.plan.layout.num_draws) == (259, 0)


# ------------------------------------------------------------------ another cache, another tokenizer


def test_the_cache_of_another_plan_is_refused_and_stays(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir = copy(cached, tmp_path / "run")
    before, config = tree(run_dir / "cache"), (run_dir / "config.yaml").read_bytes()
    ended = toy.run("cache-teacher", run_dir, "--set", "cache.head_size=8", "--set", "data.sequence_length=16")
    refuse(ended, 3, "cache.head_size: 16 -> 8", "data.sequence_length: 32 -> 16", "--run-dir")
    ended = toy.run("cache-teacher", run_dir, "--set", "cache.batch_size=2")
    refuse(ended, 3, "cache.batch_size: 8 -> 2")
    other = tiny.save_model(tmp_path / "other-teacher", seed=1)
    ended = toy.run("cache-teacher", run_dir, "--set", f"teacher.model={other}")
    refuse(ended, 3, "teacher.files.model.safetensors")
    texts = copy(toy.texts, tmp_path / "texts")
    (texts / "more.txt").write_text("one more document")
    ended = toy.run("cache-teacher", run_dir, "--set", f"data.path={texts}")
    refuse(ended, 3, "source.")
    assert tree(run_dir / "cache") == before
    assert (run_dir / "config.yaml").read_bytes() == config
    assert status(run_dir) == status(cached)


def test_the_same_text_and_teacher_elsewhere_are_the_same(toy: Toy, cached: Path, tmp_path: Path) -> None:
    """Where things lie says nothing about what they are; what is gone is said to be, and the cache stands."""
    moved = ["--set", f"data.path={copy(toy.texts, tmp_path / 'texts')}"]
    moved += ["--set", f"teacher.model={copy(toy.teacher, tmp_path / 'teacher')}"]
    toy.ran("cache-teacher", cached, *moved)
    gone = ["--set", f"data.path={tmp_path / 'gone'}", "--set", f"teacher.model={tmp_path / 'gone'}"]
    assert "cannot be compared" in toy.ran("cache-teacher", cached, *gone).stderr
    toy.ran("cache-teacher", cached)


def test_two_caches_named_where_one_is_meant(toy: Toy, cached: Path, tmp_path: Path) -> None:
    toy.ran("cache-teacher", tmp_path / "other", "--set", "cache.head_size=8", "--set", "data.max_documents=4")
    ended = toy.run("train-student", tmp_path / "run", "--set", f"cache.roots=[{cached}, {tmp_path / 'other'}]")
    refuse(ended, 3, "two different caches", str(tmp_path / "other"))


def test_a_student_with_another_tokenizer(toy: Toy, cached: Path, tmp_path: Path) -> None:
    student = tiny.save_stranger(tmp_path / "student")
    options = ["--set", f"cache.roots=[{cached}]", "--set", "student.config=null", "--set", f"student.model={student}"]
    ended = toy.run("train-student", tmp_path / "run", *options)
    refuse(ended, 3, "its tokenizer is not the teacher's", "Differences, teacher -> this model")
    nothing_half_written(tmp_path / "run")


def test_a_student_with_too_few_rows(toy: Toy, cached: Path, tmp_path: Path) -> None:
    student = tmp_path / "student"
    tiny.make_model(vocab_size=200, bos_token_id=1, eos_token_id=1, pad_token_id=1).save_pretrained(str(student))
    options = ["--set", f"cache.roots=[{cached}]", "--set", "student.config=null", "--set", f"student.model={student}"]
    refuse(toy.run("train-student", tmp_path / "run", *options), 2, "ids up to 258", "200 rows")


def test_a_student_that_is_too_short(toy: Toy, cached: Path, tmp_path: Path) -> None:
    """What is advised leaves the cache as it is."""
    options, key = (
        ["--set", f"cache.roots=[{cached}]", "--set", "train.steps=2"],
        "student.config.max_position_embeddings",
    )
    ended = toy.run("train-student", tmp_path / "run", *options, "--set", f"{key}=16")
    refuse(ended, 2, "32 positions", f"at most 16. Set {key} to 32 or more.")
    toy.ran("train-student", tmp_path / "run", *options, "--set", f"{key}=32")


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ("student.config.max_position_embeddings=16", "Set student.config.max_position_embeddings to 32 or more."),
        ("student.config={model_type: gpt2, n_embd: 8, n_head: 2, n_positions: 16}", "Set student.config.n_positions"),
        ("student.config={model_type: mpt, d_model: 8, n_heads: 2, max_seq_len: 16}", "Set student.config.max_seq_len"),
        ("student.model={short}", "Choose another student, or make the cache with data.sequence_length: 16 or less."),
        ("student.config.hiden_size=16", "'hidden_size'"),
    ],
)
def test_a_student_that_does_not_fit_is_met_before_anything_is_cached(
    student: str, words: str, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.models.planning.load_model", lambda *_: pytest.fail("loaded"))
    short = tiny.save_model(tmp_path / "short", max_position_embeddings=16)
    options = ["--set", "student.config=null"] if "model={" in student else []
    ended = toy.run("cache-teacher", tmp_path / "run", *options, "--set", student.replace("{short}", str(short)))
    refuse(ended, 2, words)
    assert not (tmp_path / "run" / "cache").exists()


def test_a_student_that_is_not_here_yet_is_no_matter_of_the_cache(toy: Toy, tmp_path: Path) -> None:
    options = ["--set", "data.max_documents=4", "--set", "student.config=null"]
    toy.ran("cache-teacher", tmp_path / "run", *options, "--set", "student.model=./later")


def test_a_student_config_with_a_wrong_key(toy: Toy, cached: Path, tmp_path: Path) -> None:
    options = ["--set", f"cache.roots=[{cached}]", "--set", "student.config.hiden_size=16"]
    refuse(toy.run("train-student", tmp_path / "run", *options), 2, "'hiden_size'", "'hidden_size'")


# ------------------------------------------------------------------ unfinished


def test_stages_that_come_too_early(toy: Toy, cached: Path, tmp_path: Path) -> None:
    for stage in ("train-student", "eval"):
        place = tmp_path / stage / "cache"
        said = f"{place}: no cache here (looked for plan.json, at any depth, in {place}, which is not there). Check"
        refuse(toy.run(stage, tmp_path / stage), 6, said, "make one with `sad-pipeline cache-teacher -c CONFIG`")
    ended = toy.run("eval", tmp_path / "c", "--set", f"cache.roots=[{cached}]")
    refuse(ended, 6, "no student yet", "train-student")
    ended = toy.run("train-student", tmp_path / "d", "--set", "train.roots=[/nowhere/at/all]")
    refuse(ended, 6, "cache-teacher")
    options = ["--set", f"cache.roots=[{cached}]", "--set", f"train.roots=[{tmp_path / 'nowhere'}]"]
    refuse(toy.run("train-student", tmp_path / "e", *options), 2, "train.roots", "no such folder")


# ------------------------------------------------------------------ the disk


def test_chats_of_which_none_can_be_used(tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    (tmp_path / "chats.jsonl").write_text('{"messages": []}\n{"messages": "no"}\n{"text": "other column"}\n')
    options = ["--set", "data.source=jsonl", "--set", f"data.path={tmp_path / 'chats.jsonl'}"]
    ended = toy.run("cache-teacher", tmp_path / "run", *options, "--set", "data.messages_column=messages")
    refuse(ended, 2, "chats.jsonl", "of 3 read none is usable")
    nothing_half_written(tmp_path / "run")
