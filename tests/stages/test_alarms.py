"""A training that goes wrong says so: real figures of a student made with far too large weights."""

from __future__ import annotations

import math
from pathlib import Path

from tests.stages.toys import Toy
from tests.stages.trainings import metrics, train

WILD = [
    word
    for setting in (
        "student.config.initializer_range=1.0",
        "student.config.hidden_size=256",
        "train.warmup_steps=2",
        "train.learning_rate=1e-6",
        "train.steps=6",
        "train.evaluate_every=2",
    )
    for word in ("--set", setting)
]


def test_losses_and_norms_are_said_once_and_perplexity_is_capped(toy: Toy, cached: Path, tmp_path: Path) -> None:
    ended = train(toy, cached, tmp_path / "run", *WILD)
    lines = metrics(tmp_path / "run")
    learned = [line for line in lines if line["kind"] == "train"]
    assert min(min(line["ce"], line["kd"]) for line in learned) > 20, "as wild as it was meant"
    assert min(line["gradient_norm"] for line in learned) > 10
    for words in ("the ce part of the loss is", "the kd part of the loss is"):
        said = [line for line in ended.stderr.splitlines() if words in line]
        assert len(said) == 1, words
        assert said[0].startswith("note: step 3: "), "the first step after warm-up"
    said = [line for line in ended.stderr.splitlines() if "the gradient's norm is" in line]
    assert [line.partition("the gradient")[0] for line in said] == ["note: step 1: ", "note: step 3: "]
    assert ["in warm-up" in line for line in said] == [True, False]
    assert "after step 1,000" not in ended.stderr

    validated = [line for line in lines if line["kind"] == "validation"]
    assert {line["perplexity"] for line in validated} == {math.exp(20)}
    assert ended.stderr.count("is logged as the perplexity exp(20)") == 1


def test_a_sound_training_is_silent_and_logs_what_it_looked_at(toy: Toy, cached: Path, tmp_path: Path) -> None:
    ended = train(toy, cached, tmp_path / "run")
    for words in ("part of the loss is", "the gradient's norm is", "is logged as the perplexity"):
        assert words not in ended.stderr
    lines = metrics(tmp_path / "run")
    kinds = [line["kind"] for line in lines]
    assert (kinds.count("train"), kinds.count("validation")) == (12, 4)
    for line in (line for line in lines if line["kind"] == "validation"):
        assert line["perplexity"] == math.exp(line["ce"])
    groups = ("embedding", "attention", "mlp", "norm", "head")
    for line in (line for line in lines if line["kind"] == "train"):
        squares = sum(line[f"gradient_norm_{group}"] ** 2 for group in groups)
        assert math.isclose(squares, line["gradient_norm"] ** 2, rel_tol=1e-5)
        assert math.isclose(line["gradient_norm_clipped"], min(1.0, line["gradient_norm"]), rel_tol=1e-5)
        assert {"loss", "temperature", "learning_rate", "skipped_steps", "effective_draws"} <= line.keys()
