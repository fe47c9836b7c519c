"""A student that could not learn from the cache is met before the teacher has scored anything for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.models import planning, student
from tests import tiny
from tests.stages.refusals import refuse
from tests.stages.toys import Toy, run

STAGE = "cache-teacher"
OPT = (
    "--set", ("student.config={model_type: opt, hidden_size: 32, word_embed_proj_dim: 16, ffn_dim: 64, "
    "num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 128}"),
)  # fmt: skip


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    return tiny.save_stranger(tmp_path / "stranger")


def named(model: Path | str) -> tuple[str, ...]:
    return "--set", "student.config=null", "--set", f"student.model={model}"


@pytest.fixture
def no_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text may not be packed."""

    def pack(*_: object) -> None:
        raise AssertionError("text was packed")

    monkeypatch.setattr(planning, "prepare_sequences", pack)


@pytest.mark.usefixtures("no_packing")
def test_one_with_another_tokenizer(toy: Toy, stranger: Path, tmp_path: Path) -> None:
    ended = toy.run(STAGE, tmp_path / "run", *named(stranger))
    refuse(ended, 3, f"student.model {stranger}", "its tokenizer is not the teacher's", "tokens and their ids")
    assert not (tmp_path / "run" / "cache" / "plan.json").exists()


def test_the_doctor_knows_it_too(toy: Toy, stranger: Path, tmp_path: Path) -> None:
    ended = run("doctor", "-c", str(toy.config), "--run-dir", str(tmp_path / "run"), *named(stranger))
    refuse(ended, 5, "the student's tokenizer is not the teacher's", "a student of the teacher's family")
    own = tiny.save_model(tmp_path / "own", seed=3)
    run("doctor", "-c", str(toy.config), "--run-dir", str(tmp_path / "run"), *named(own)).stderr.index("ok")


@pytest.mark.usefixtures("no_packing")
def test_one_that_would_mix_the_documents_of_a_row(toy: Toy, tmp_path: Path) -> None:
    ended = toy.run(STAGE, tmp_path / "run", *OPT)
    refuse(ended, 2, "opt models let a document see the one before it", "data.packing: one_document")
    assert not (tmp_path / "run" / "cache" / "plan.json").exists()


def test_with_a_row_a_document_it_fits(toy: Toy, tmp_path: Path) -> None:
    toy.ran(STAGE, tmp_path / "run", *OPT, "--set", "data.packing=one_document", "--set", "data.max_documents=4")


def test_one_that_is_not_here_yet_is_no_obstacle(toy: Toy, tmp_path: Path) -> None:
    toy.ran(STAGE, tmp_path / "run", *named(tmp_path / "later"), "--set", "data.max_documents=4")


@pytest.mark.parametrize("answers", [True, False])
def test_of_a_hub_id_the_tokenizer_alone_is_asked_for(
    answers: bool, toy: Toy, stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where the hub does not give it, the student is met when it is loaded."""
    real, asked = student.Tokenizer.load, []

    def load(reference: str | Path, *rest: object) -> student.Tokenizer:
        if reference != "somebody/student":
            return real(reference, *rest)  # type: ignore[arg-type]
        asked.append(reference)
        if not answers:
            raise student.ConfigError("the hub cannot be asked")
        return real(stranger)

    monkeypatch.setattr(student.Tokenizer, "load", load)
    ended = toy.run(STAGE, tmp_path / "run", *named("somebody/student"), "--set", "data.max_documents=4")
    assert asked == ["somebody/student"]
    assert ended.code == (3 if answers else 0), ended.stderr
    assert ("its tokenizer is not the teacher's" in ended.stderr) is answers
