"""A tokenizer with a special token for which the model has no row, as of a family whose larger models read pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AddedToken, AutoTokenizer

from pipeline.cache import TeacherCache
from tests import tiny
from tests.stages.toys import Toy, make_toy

PICTURE = "<image_soft_token>"
NUM_IDS = 259  # of the tiny tokenizer


def with_token(folder: Path, text: str, special: bool) -> None:
    """One token more in a model's tokenizer, and no row for it."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.add_tokens([AddedToken(text, special=special, normalized=False)], special_tokens=special)
    tokenizer.save_pretrained(str(folder))


@pytest.fixture
def family(tmp_path: Path) -> Toy:
    """A teacher with exactly as many rows as its tokenizer has ids without the token of pictures, and texts."""
    return make_toy(tmp_path / "toy", vocab_size=NUM_IDS)


def test_it_is_left_out_by_every_stage(family: Toy, tmp_path: Path) -> None:
    with_token(family.teacher, PICTURE, special=True)
    (family.texts / "pictures.txt").write_text(f"A page that spells {PICTURE} and goes on for a while. " * 8)
    student = tiny.save_model(tmp_path / "student", vocab_size=NUM_IDS, seed=3)
    with_token(student, PICTURE, special=True)
    run_dir, from_it = tmp_path / "run", ["--set", f"student.model={student}", "--set", "student.config=null"]
    ended = family.ran("cache-teacher", run_dir)
    assert f"1 special token ({PICTURE}) beyond the model's {NUM_IDS} rows, left out" in ended.stderr
    with TeacherCache.open(run_dir) as cache:
        assert cache.plan.vocab_size == NUM_IDS
        assert int(cache.sequences.select(slice(None)).input_ids.max()) < NUM_IDS
    (run_dir / "cache" / "sequences.shard").unlink()
    for seal in list(run_dir.glob("cache/shards/*.seal.json"))[:1]:
        seal.unlink()
    family.ran("cache-teacher", run_dir)
    family.ran("train-student", run_dir, *from_it)
    family.ran("eval", run_dir, *from_it, "--set", f"eval.teacher={family.teacher}")
    assert json.loads((run_dir / "status.json").read_text())["state"] == "complete"


def test_a_word_without_a_row_is_refused(family: Toy, tmp_path: Path) -> None:
    with_token(family.teacher, "a word of its own", special=False)
    ended = family.run("cache-teacher", tmp_path / "run")
    assert (ended.code, "matrix only" in ended.stderr) == (2, True), ended.stderr
