"""train-student where steps, or validations, are not finite: skipped and counted, and ended in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.distill import journal as journal_module
from pipeline.distill import learner as learner_module
from pipeline.distill.losses import LossParts
from pipeline.distill.validation import Validation
from stages import train_student
from tests.stages.toys import Toy, status, tree
from tests.stages.trainings import STAGE, checkpoint, metrics, train


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], bool]], None]:
    """Choose the steps (from 1) whose loss is NaN."""
    real_learn, real_loss, now = learner_module.Learner.learn, learner_module.distillation_loss, 0
    is_bad: Callable[[int], bool] = lambda step: False  # noqa: E731

    def learn(self: Any, step: int, *args: Any, **kwargs: Any) -> Any:
        nonlocal now
        now = step + 1
        return real_learn(self, step, *args, **kwargs)

    def loss(*args: Any, **kwargs: Any) -> LossParts:
        parts = real_loss(*args, **kwargs)
        if is_bad(now):
            object.__setattr__(parts, "loss", parts.loss * float("nan"))
        return parts

    def choose(steps: Callable[[int], bool]) -> None:
        nonlocal is_bad
        is_bad = steps

    monkeypatch.setattr(learner_module.Learner, "learn", learn)
    monkeypatch.setattr(learner_module, "distillation_loss", loss)
    return choose


def checkpoints(run_dir: Path) -> list[int]:
    """Steps of the checkpoints there are."""
    return sorted(int(path.name[-8:]) for path in (run_dir / "student" / "checkpoints").glob("step-*"))


def test_a_step_that_is_not_finite_is_skipped_and_counted(
    toy: Toy, cached: Path, tmp_path: Path, poison: Callable[..., None]
) -> None:
    poison(lambda step: step == 5)
    ended = train(toy, cached, tmp_path / "run", "--set", "train.checkpoint_every=1", "--set", "train.steps=5")
    assert "not finite; it was skipped and counted" in ended.stderr
    lines = [line for line in metrics(tmp_path / "run") if line["kind"] == "train"]
    assert [line["skipped_steps"] for line in lines] == [0, 0, 0, 0, 1]
    skipped = [line for line in metrics(tmp_path / "run") if line["kind"] == "skipped"]
    assert [(line["step"], line["what"]) for line in skipped] == [(5, ["loss", "gradient"])]
    numbers = skipped[0]["sequences"]
    assert len(numbers) == 4
    assert f"Sequences of the cache: {', '.join(map(str, numbers))}." in ended.stderr
    assert (lines[4]["loss"], lines[4]["gradient_norm"]) == (None, None)
    before, after = (tree(checkpoint(tmp_path / "run", step)) for step in (4, 5))
    for name in ("weights.safetensors", "optimizer.safetensors", "average.safetensors"):
        assert before[name] == after[name], f"{name} changed in a skipped step"


def test_a_checkpoint_waits_for_the_next_good_step(
    toy: Toy, cached: Path, tmp_path: Path, poison: Callable[..., None]
) -> None:
    poison(lambda step: step in (4, 5))
    train(toy, cached, tmp_path / "straight", "--set", "train.steps=7")
    assert checkpoints(tmp_path / "straight") == [6, 7]

    # A pause in between does not change what comes of it.
    for _ in range(7):
        train(toy, cached, tmp_path / "stopped", "--set", "train.steps=7", "--time-budget", "1e-6")
    straight, stopped = (tree(tmp_path / name / "student") for name in ("straight", "stopped"))
    for name in straight.keys() - {"timings.jsonl"}:
        assert straight[name] == stopped[name], name


def test_twenty_in_a_row_end_the_training_and_its_good_checkpoint_goes_on(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path, poison: Callable[..., None]
) -> None:
    run_dir, roots = tmp_path / "run", ["--set", f"cache.roots=[{cached}]", "--set", "train.steps=60"]
    poison(lambda step: step > 6)
    train(toy, cached, run_dir, "--set", "train.steps=60", "--time-budget", "1e-6")
    ended = toy.run(STAGE, run_dir, *roots)
    assert ended.code == 1
    assert "step 26: the last 20 steps had losses or gradients that are not finite" in ended.stderr
    assert f"--fork-from {checkpoint(run_dir, 4)}" in ended.stderr
    assert status(run_dir)["state"] == "failed"
    assert checkpoints(run_dir) == [1, 4], "none was made of weights that may have gone bad"

    # As told: from that checkpoint, at a rate at which nothing goes wrong.
    poison(lambda step: False)
    lower = ["--set", "train.steps=12", "--set", "train.learning_rate=1e-4"]
    ended = train(toy, cached, tmp_path / "new", *lower, "--fork-from", str(checkpoint(run_dir, 4)))
    assert "forked after step 4" in ended.stderr
    assert status(tmp_path / "new")["state"] == "complete"
    lines = [line for line in metrics(tmp_path / "new") if line["kind"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert lines[-1]["skipped_steps"] == 0


def test_how_many_in_a_row_end_it_is_a_setting(
    toy: Toy, cached: Path, tmp_path: Path, poison: Callable[..., None]
) -> None:
    poison(lambda step: step in (3, 4, 6, 7, 8))
    options = ["--set", f"cache.roots=[{cached}]", "--set", "train.max_skipped_in_a_row=3"]
    ended = toy.run(STAGE, tmp_path / "run", *options, "--set", "train.log_every=5")
    assert ended.code == 1
    assert "step 8: the last 3 steps had losses or gradients that are not finite" in ended.stderr
    assert "(train.max_skipped_in_a_row)" in ended.stderr
    skipped = [line for line in metrics(tmp_path / "run") if line["kind"] == "skipped"]
    assert [(line["step"], line["skipped_in_a_row"], line["skipped_steps"]) for line in skipped] == [
        (3, 1, 1),
        (4, 2, 2),
        (6, 1, 3),
        (7, 2, 4),
        (8, 3, 5),
    ], "each of them, whatever is logged otherwise"


def test_a_pause_among_skipped_steps_keeps_what_came_before_them(
    toy: Toy, cached: Path, tmp_path: Path, poison: Callable[..., None]
) -> None:
    run_dir, steps = tmp_path / "run", ["--set", "train.steps=60"]
    poison(lambda step: step > 2)
    for _ in range(21):
        train(toy, cached, run_dir, *steps, "--time-budget", "1e-6")
    assert checkpoints(run_dir) == list(range(1, 22))
    ended = toy.run(STAGE, run_dir, "--set", f"cache.roots=[{cached}]", *steps)
    assert ended.code == 1
    assert f"--fork-from {checkpoint(run_dir, 2)}" in ended.stderr

    # A fork of the run itself begins with its newest checkpoint, and with a clean count.
    ended = toy.run(STAGE, tmp_path / "fork", "--set", f"cache.roots=[{cached}]", *steps, "--fork-from", str(run_dir))
    assert "step 41: the last 20 steps" in ended.stderr
    state = json.loads((checkpoint(tmp_path / "fork", 21) / "state.json").read_text())
    assert state["learner"]["skipped_in_a_row"] == 0


def test_without_any_good_checkpoint_it_says_so(
    toy: Toy, cached: Path, tmp_path: Path, poison: Callable[..., None]
) -> None:
    poison(lambda step: True)
    ended = toy.run(STAGE, tmp_path / "run", "--set", f"cache.roots=[{cached}]", "--set", "train.steps=60")
    assert ended.code == 1
    assert "There is no checkpoint from before them" in ended.stderr
    assert checkpoints(tmp_path / "run") == []


def test_best_weights_are_no_place_to_fork_from(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    options = ["--set", f"cache.roots=[{cached}]", "--set", "train.steps=20"]
    ended = toy.run(STAGE, tmp_path / "run", *options, "--fork-from", str(checkpoint(trained, 12, "best")))
    assert ended.code == 2
    assert "holds weights alone" in ended.stderr


# ------------------------------------------------------------------ validations that are not finite


def strict_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl as a reader that knows no NaN gives them."""

    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is not JSON")

    text = (run_dir / "student" / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_weights_gone_bad_for_good_end_in_words(
    toy: Toy, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, options = tmp_path / "run", ["--set", f"cache.roots=[{cached}]"]
    nan = float("nan")
    monkeypatch.setattr(train_student, "validate", lambda *args: Validation(nan, nan, nan))
    ended = toy.run(STAGE, run_dir, *options)
    assert ended.code == 1
    assert "no validation of this training gave a finite cross-entropy" in ended.stderr
    lines = strict_metrics(run_dir)
    assert {line["ce"] for line in lines if line["kind"] == "validation"} == {None}
    assert not (run_dir / "student" / "model").exists()
    assert list((run_dir / "student" / "checkpoints").glob("best-*")) == []

    ended = toy.run(STAGE, run_dir, *options)
    assert ended.code == 1
    assert "no validation of this training gave a finite cross-entropy" in ended.stderr
    assert strict_metrics(run_dir) == lines, "the same lines, none twice"


def test_a_validation_that_is_not_finite_is_never_the_best(
    toy: Toy, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are not finite at step 3; at step 6 the averaged weights are, at step 9 the raw ones, and neither later."""
    nan, results = float("nan"), iter([float("nan"), float("nan"), float("nan"), 5.0, 4.0, float("inf")])
    monkeypatch.setattr(train_student, "validate", lambda *args: Validation(next(results, nan), nan, nan))
    train(toy, cached, tmp_path / "run", "--set", "train.evaluate_every=3")
    state = json.loads((checkpoint(tmp_path / "run", 12) / "state.json").read_text())
    assert state["best"] == {"step": 9, "weights": "raw", "ce": 4.0}
    found = [line["ce"] for line in strict_metrics(tmp_path / "run") if line["kind"] == "validation"]
    assert found == [None, None, None, 5.0, 4.0, None, None, None]


def test_a_validation_writes_the_better_weights_alone(
    toy: Toy, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, save = [], journal_module.save_checkpoint

    def counted(folder: Path, prefix: str, step: int, *rest: Any) -> Any:
        written.append((prefix, step))
        return save(folder, prefix, step, *rest)

    monkeypatch.setattr(journal_module, "save_checkpoint", counted)
    train(toy, cached, tmp_path / "run")
    assert [step for prefix, step in written if prefix == "best"] == [6, 12]
