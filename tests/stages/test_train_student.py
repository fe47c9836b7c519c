"""train-student through the real command: kill, resume, refuse, fork, freeze, export."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from pipeline.data.documents import Document, TokenizedDocument
from pipeline.data.tokenizer import Tokenizer
from pipeline.distill import learner as learner_module
from pipeline.distill.losses import LossParts
from tests import tiny
from tests.stages.toys import (
    REPOSITORY,
    Ended,
    Toy,
    copy,
    flip_a_bit,
    run,
    stamps,
    start,
    status,
    temporaries,
    tree,
    wait,
)

STAGE = "train-student"


def train(toy: Toy, cached: Path, run_dir: Path, *more: str) -> Ended:
    """Run train-student on the cache of another run; it must succeed."""
    return toy.ran(STAGE, run_dir, "--set", f"cache.roots=[{cached}]", *more)


def checkpoint(run_dir: Path, step: int, prefix: str = "step") -> Path:
    """The folder of a checkpoint."""
    return run_dir / "student" / "checkpoints" / f"{prefix}-{step:08d}"


def what_counts(run_dir: Path) -> dict[str, str]:
    """Hashes of everything a resume must not change: last checkpoint, best weights, export, metrics."""
    wanted = ("metrics.jsonl", "model/", "checkpoints/step-00000012/", "checkpoints/best-00000012/")
    return {name: digest for name, digest in tree(run_dir / "student").items() if name.startswith(wanted)}


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (run_dir / "student" / "metrics.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------ the straight run


def test_leaves_checkpoints_metrics_and_a_model(trained: Path) -> None:
    left = status(trained)
    assert (left["stage"], left["state"], left["progress"]) == (STAGE, "complete", {"of": 12, "steps": 12})
    lines = metrics(trained)
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 13))
    validations = [(line["step"], line["weights"]) for line in lines if line["kind"] == "validation"]
    assert validations == [(6, "raw"), (6, "ema"), (12, "raw"), (12, "ema")]
    assert lines[0]["loss"] > [line for line in lines if line["kind"] == "train"][-1]["loss"]
    assert temporaries(trained) == []
    assert sorted(path.name for path in (trained / "student" / "checkpoints").glob("step-*")) == [
        "step-00000008",
        "step-00000012",
    ]


def test_the_same_again_is_the_same_bytes_and_a_finished_one_is_left_alone(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    train(toy, cached, tmp_path / "run")
    assert what_counts(tmp_path / "run") == what_counts(trained)
    before, times = tree(trained / "student"), stamps(trained / "student")
    assert "nothing left to do" in train(toy, cached, trained).stderr
    assert (tree(trained / "student"), stamps(trained / "student")) == (before, times)


# ------------------------------------------------------------------ killed and resumed


def die_and_finish(toy: Toy, cached: Path, run_dir: Path, operation: int) -> bool:
    """Die before one operation and run again to the end; returns whether it died."""
    roots = ["--set", f"cache.roots=[{cached}]"]
    died = wait(start(toy.command(STAGE, run_dir, *roots), run_dir.with_suffix(".log"), operation))
    train(toy, cached, run_dir)
    assert temporaries(run_dir) == []
    return died == -signal.SIGKILL


@pytest.mark.parametrize("operation", [9, 40, 62, 120])
def test_killed_before_an_operation_and_resumed_gives_the_same_bytes(
    operation: int, toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    assert die_and_finish(toy, cached, tmp_path / "run", operation)
    assert what_counts(tmp_path / "run") == what_counts(trained)


@pytest.mark.slow
def test_killed_before_any_of_many_operations(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    expected, deaths = what_counts(trained), 0
    for operation in range(0, 400, 7):
        died = die_and_finish(toy, cached, tmp_path / f"run-{operation}", operation)
        assert what_counts(tmp_path / f"run-{operation}") == expected, operation
        deaths += died
        if not died:
            break
    assert deaths > 15


@pytest.mark.slow
def test_real_command_killed_at_three_moments(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "run" / "student" / "metrics.jsonl"
    arguments = toy.command(STAGE, run_dir, "--set", f"cache.roots=[{cached}]", "--set", "train.checkpoint_every=1")
    for lines in (2, 6, 11):
        process = subprocess.Popen(
            [sys.executable, "-m", "stages.cli", *arguments], cwd=REPOSITORY, stderr=subprocess.DEVNULL
        )
        while not log.is_file() or len(log.read_text().splitlines()) < lines:
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    train(toy, cached, run_dir)
    assert what_counts(run_dir) == what_counts(trained)


def test_resumed_at_every_step_gives_the_same_bytes(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    """A budget that is always spent: each start does one step, saves, and pauses."""
    run_dir = tmp_path / "run"
    for step in range(1, 12):
        ended = train(toy, cached, run_dir, "--time-budget", "1e-6")
        assert f"paused after step {step} of 12: the time budget is nearly spent" in ended.stderr
        assert status(run_dir)["progress"] == {"steps": step, "of": 12}
    train(toy, cached, run_dir, "--time-budget", "1e-6")
    assert what_counts(run_dir) == what_counts(trained)


GPT2 = "student.config={model_type: gpt2, n_embd: 16, n_layer: 1, n_head: 2, n_positions: 64}"


@pytest.mark.parametrize(
    "settings",
    [
        ["train.accumulation=2", "train.gradient_checkpointing=true"],
        ["train.dtype=bfloat16"],
        ["train.dtype=float16"],
        ["train.ema_decay=0", "train.clip_norm=0"],
        ["train.objective=bucket", "train.temperature={start: 3, end: 2, shape: cosine}"],
        ["train.objective=subset", "train.ce_weight=0"],
        ["student.config.tie_word_embeddings=true"],
        [GPT2],  # with dropout
    ],
    ids=lambda settings: settings[0].partition(": ")[0],
)
def test_every_kind_of_training_resumes_exactly(settings: list[str], toy: Toy, cached: Path, tmp_path: Path) -> None:
    options = [
        word for setting in ["train.steps=4", "train.evaluate_every=2", *settings] for word in ("--set", setting)
    ]
    train(toy, cached, tmp_path / "straight", *options)
    for _ in range(4):
        train(toy, cached, tmp_path / "stopped", *options, "--time-budget", "1e-6")
    straight, stopped = (tree(tmp_path / name / "student") for name in ("straight", "stopped"))
    for name in straight.keys() - {"timings.jsonl"}:
        assert straight[name] == stopped[name], name


def test_a_signal_saves_and_pauses(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = toy.command(STAGE, run_dir, "--set", f"cache.roots=[{cached}]", "--paused-exit-code", "75")
    process = start(arguments, tmp_path / "log")
    while not (run_dir / "student" / "metrics.jsonl").is_file():
        time.sleep(0.001)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    assert wait(process) == 75
    left = status(run_dir)
    assert left["state"] == "paused"
    assert left["next_command"].startswith("sad-pipeline train-student -c ")
    assert checkpoint(run_dir, left["progress"]["steps"]).is_dir()
    train(toy, cached, run_dir)
    assert what_counts(run_dir) == what_counts(trained)


@pytest.mark.parametrize("damaged", ["weights.safetensors", "optimizer.safetensors", "state.json", "COMMIT.json"])
def test_a_damaged_newest_checkpoint_is_passed_over(
    damaged: str, toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    run_dir = copy(trained, tmp_path / "run")
    path = checkpoint(run_dir, 12) / damaged
    path.write_bytes(path.read_bytes()[:-40])
    (run_dir / "student" / "model" / "config.json").unlink()
    # One more checkpoint before the damaged one is reached: it must not be taken for a newer one.
    ended = train(toy, cached, run_dir, "--set", "train.checkpoint_every=3")
    assert "checkpoint passed over" in ended.stderr
    assert "continuing after step 8" in ended.stderr
    assert what_counts(run_dir) == what_counts(trained)


def test_an_unfinished_checkpoint_beyond_is_no_obstacle(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    """Killed while step 8 was saved, then resumed with another (free) interval that never saves at step 8."""
    run_dir = copy(trained, tmp_path / "run")
    (checkpoint(run_dir, 12) / "COMMIT.json").unlink()
    for name in ("COMMIT.json", "state.json"):
        (checkpoint(run_dir, 8) / name).unlink()
    train(toy, cached, run_dir, "--set", "train.checkpoint_every=5")
    assert what_counts(run_dir) == what_counts(trained)
    left = sorted(path.name for path in (run_dir / "student" / "checkpoints").glob("step-*"))
    assert left == ["step-00000010", "step-00000012"]


def test_lost_best_weights_are_chosen_anew(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    run_dir = copy(trained, tmp_path / "run")
    flip_a_bit(checkpoint(run_dir, 12, "best") / "weights.safetensors")
    (run_dir / "student" / "model").rename(tmp_path / "old-model")
    assert "the best weights so far are lost" in train(toy, cached, run_dir).stderr
    assert tree(run_dir / "student" / "model") == tree(tmp_path / "old-model")


def test_resumes_from_a_read_only_root(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "mounted" / "deep" / "first", tmp_path / "second"
    copy(trained, first)
    (checkpoint(first, 12) / "COMMIT.json").unlink()
    before, times = tree(first), stamps(first)
    options = ["--set", f"train.roots=[{tmp_path / 'mounted'}]"]
    ended = train(toy, cached, second, *options)
    assert f"continuing after step 8, from {checkpoint(first, 8)}" in ended.stderr
    assert (tree(first), stamps(first)) == (before, times)
    assert what_counts(second) == what_counts(trained)

    # Killed while the best weights were fetched from the root: half of them here are not taken for them.
    third = tmp_path / "third"
    half = checkpoint(third, 6, "best")
    half.mkdir(parents=True)
    (half / "weights.safetensors").write_bytes(b"half")
    train(toy, cached, third, *options)
    assert what_counts(third) == what_counts(trained)


# ------------------------------------------------------------------ what may change, and what not


def test_a_schedule_key_is_refused_and_a_free_one_resumes(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir, roots = tmp_path / "run", ("--set", f"cache.roots=[{cached}]")
    toy.ran(STAGE, run_dir, *roots, "--time-budget", "1e-6")
    before, config = tree(run_dir / "student"), (run_dir / "config.yaml").read_bytes()
    ended = toy.run(STAGE, run_dir, *roots, "--set", "train.learning_rate=0.01", "--set", "train.steps=20")
    assert ended.code == 3
    assert "train.learning_rate: 0.001 -> 0.01" in ended.stderr
    assert "train.steps: 12 -> 20" in ended.stderr
    assert "--fork-from" in ended.stderr
    assert tree(run_dir / "student") == before
    assert (run_dir / "config.yaml").read_bytes() == config, "the config of the run is still the one it was made with"
    assert status(run_dir)["state"] == "failed"
    ended = toy.ran(STAGE, run_dir, *roots, "--set", "train.log_every=3")
    assert "continuing after step 1" in ended.stderr


def test_a_changed_student_is_refused(toy: Toy, cached: Path, trained: Path) -> None:
    ended = toy.run(STAGE, trained, "--set", f"cache.roots=[{cached}]", "--set", "student.seed=5")
    assert ended.code == 3
    assert "student.seed: 0 -> 5" in ended.stderr


def test_forks_into_a_new_run_that_resumes_like_any(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    longer = ["--set", "train.steps=16", "--set", "train.learning_rate=5e-4", "--fork-from", str(trained)]
    before = tree(trained)
    ended = train(toy, cached, tmp_path / "straight", *longer)
    assert "train.steps: 12 -> 16" in ended.stderr
    assert tree(trained) == before
    train(toy, cached, tmp_path / "stopped", *longer, "--time-budget", "1e-6")
    assert status(tmp_path / "stopped")["progress"] == {"steps": 13, "of": 16}
    assert "continuing after step 13" in train(toy, cached, tmp_path / "stopped", *longer).stderr
    straight, stopped = (tree(tmp_path / name / "student") for name in ("straight", "stopped"))
    for name in ("metrics.jsonl", "model/model.safetensors", "checkpoints/step-00000016/optimizer.safetensors"):
        assert straight[name] == stopped[name]
    steps = [line["step"] for line in metrics(tmp_path / "straight") if line["kind"] == "train"]
    assert steps == list(range(1, 17))


def test_forks_that_cannot_be(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    roots = ("--set", f"cache.roots=[{cached}]")
    ended = toy.run(STAGE, tmp_path / "a", *roots, "--set", "train.steps=10", "--fork-from", str(trained))
    assert ended.code == 2
    assert "after step 12, and this training ends at 10" in ended.stderr
    ended = toy.run(STAGE, tmp_path / "b", *roots, "--fork-from", str(cached))
    assert ended.code == 2
    assert "expected a run with a finished checkpoint" in ended.stderr
    options = ["--set", "student.config.hidden_size=8", "--set", "train.steps=14", "--fork-from", str(trained)]
    ended = toy.run(STAGE, tmp_path / "c", *roots, *options)
    assert ended.code == 3
    assert "these weights are not of this student" in ended.stderr


def test_a_fork_that_begins_to_average_begins_with_the_forked_weights(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    train(toy, cached, tmp_path / "plain", "--set", "train.ema_decay=0")
    options = ["--set", "train.steps=13", "--set", "train.ema_decay=0.9", "--fork-from", str(tmp_path / "plain")]
    train(toy, cached, tmp_path / "forked", *options)
    origin = load_file(checkpoint(tmp_path / "forked", 12) / "average.safetensors")
    weights = load_file(checkpoint(tmp_path / "plain", 12) / "weights.safetensors")
    for name, average in origin.items():
        torch.testing.assert_close(average, weights[name], rtol=0, atol=0)


# ------------------------------------------------------------------ which lessons


def test_an_unfinished_cache_is_refused_or_frozen(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    copy(cached, run_dir)
    seal = run_dir / "cache" / "shards" / "00001.seal.json"
    kept = seal.read_bytes()
    seal.unlink()
    ended = toy.run(STAGE, run_dir)
    assert ended.code == 6
    assert "8 of 9 shards are sealed" in ended.stderr
    assert "--use-sealed-only" in ended.stderr

    toy.ran(STAGE, run_dir, "--use-sealed-only", "--time-budget", "1e-6")
    seal.write_bytes(kept)  # the ninth shard is sealed between two starts: this training goes on without it
    ended = toy.ran(STAGE, run_dir, "--use-sealed-only")
    assert "continuing after step 1" in ended.stderr
    state = json.loads((checkpoint(run_dir, 12) / "state.json").read_text())
    assert state["training"]["frozen_shards"] == [0, 2, 3, 4, 5, 6, 7, 8]
    assert toy.run(STAGE, run_dir).code == 3
    (run_dir / "cache" / "shards" / "00002.seal.json").unlink()
    ended = toy.run(STAGE, run_dir, "--use-sealed-only", "--set", "train.log_every=2")
    assert ended.code == 6
    assert "[2] of them are not here" in ended.stderr


def test_labels_only_reads_no_record(toy: Toy, cached: Path, tmp_path: Path) -> None:
    """With every training shard damaged inside, labels are still learned from."""
    options = ["--set", "train.ce_weight=1", "--set", "train.kd_weight=0"]
    train(toy, cached, tmp_path / "whole", *options)
    damaged = copy(cached, tmp_path / "damaged")
    for index in range(6):
        flip_a_bit(damaged / "cache" / "shards" / f"{index:05d}.shard", 0.3)
    train(toy, damaged, tmp_path / "run", *options)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    assert {line["kd"] for line in metrics(tmp_path / "run") if line["kind"] == "train"} == {None}


def test_epochs_end_where_all_was_seen_that_often(toy: Toy, cached: Path, tmp_path: Path) -> None:
    options = ["--set", "train.steps=null", "--set", "train.epochs=0.25", "--set", "train.batch_size=8"]
    ended = train(toy, cached, tmp_path / "run", *options)
    assert "7 steps done" in ended.stderr  # 216 training sequences, a quarter of them, 8 a step


# ------------------------------------------------------------------ steps that are not finite


def test_a_step_that_is_not_finite_is_skipped_and_counted(
    toy: Toy, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = learner_module.distillation_loss, 0

    def poisoned(*args: Any, **kwargs: Any) -> LossParts:
        nonlocal calls
        calls += 1
        parts = real(*args, **kwargs)
        if calls == 5:
            object.__setattr__(parts, "loss", parts.loss * float("nan"))
        return parts

    monkeypatch.setattr(learner_module, "distillation_loss", poisoned)
    ended = train(toy, cached, tmp_path / "run", "--set", "train.checkpoint_every=1", "--set", "train.steps=5")
    assert "not finite; it was skipped and counted" in ended.stderr
    lines = [line for line in metrics(tmp_path / "run") if line["kind"] == "train"]
    assert [line["skipped_steps"] for line in lines] == [0, 0, 0, 0, 1]
    assert (lines[4]["loss"], lines[4]["gradient_norm"]) == (None, None)
    before, after = (tree(checkpoint(tmp_path / "run", step)) for step in (4, 5))
    for name in ("weights.safetensors", "optimizer.safetensors", "average.safetensors"):
        assert before[name] == after[name], f"{name} changed in a skipped step"


# ------------------------------------------------------------------ the student it leaves


@pytest.mark.slow
def test_the_exported_student_needs_nothing_of_this_project(trained: Path, tmp_path: Path) -> None:
    """Loaded in a process that cannot import this project, it gives the logits of the best weights."""
    model_folder = trained / "student" / "model"
    program = f"""
import sys
sys.modules["pipeline"] = sys.modules["stages"] = None  # importing either is an error now
import torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained({str(model_folder)!r})
tokenizer = transformers.AutoTokenizer.from_pretrained({str(model_folder)!r})
ids = tokenizer("def decode(self, s):", return_tensors="pt").input_ids
with torch.no_grad():
    torch.save(model(ids).logits, {str(tmp_path / "logits.pt")!r})
generate = transformers.pipeline("text-generation", {str(model_folder)!r})
text = generate("def", max_new_tokens=4, do_sample=False)[0]["generated_text"]
assert text.startswith("def") and len(text) > 3, text
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    model = tiny.make_model(
        vocab_size=259,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    )
    model.load_state_dict(load_file(checkpoint(trained, 12, "best") / "weights.safetensors"), strict=True)
    ids = Tokenizer.load(model_folder).encode([Document("key", "def decode(self, s):")])[0]
    assert isinstance(ids, TokenizedDocument)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids.ids[:-1].astype("int64"))[None]).logits
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt", weights_only=True), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_any_architecture_can_be_the_student(architecture: str, toy: Toy, cached: Path, tmp_path: Path) -> None:
    block = json.dumps({"model_type": architecture, **tiny.ARCHITECTURES[architecture]})
    options = ["--set", f"cache.roots=[{cached}]", "--set", f"student.config={block}", "--set", "train.steps=2"]
    ended = toy.run(STAGE, tmp_path / "run", *options)
    if architecture == "opt":  # it would mix the documents of this packed cache
        assert ended.code == 2
        assert "let a document see the one before it" in ended.stderr
        return
    assert ended.code == 0, ended.stderr
    folder = tmp_path / "run" / "student" / "model"
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    best = load_file(checkpoint(tmp_path / "run", 2, "best") / "weights.safetensors")
    for name, tensor in model.state_dict().items():
        assert name not in best or torch.equal(best[name], tensor), name
    before = Tokenizer.load(toy.teacher).fingerprint()
    plain = Tokenizer(PreTrainedTokenizerFast.from_pretrained(str(folder)), "plain").fingerprint()
    assert plain == before
    if Tokenizer.load(folder).fingerprint() != before:  # transformers has its own way with the texts of some models
        assert "AutoTokenizer does not give the teacher's ids here" in ended.stderr


def test_the_model_card_says_which_weights(trained: Path, toy: Toy) -> None:
    card = (trained / "student" / "model" / "README.md").read_text(encoding="utf-8")
    best = json.loads((checkpoint(trained, 12) / "state.json").read_text())["best"]
    assert f"| weights | {best['weights']}, of step {best['step']} of 12: the lowest validation loss |" in card
    assert f"| teacher | {toy.teacher} |" in card
    assert "| `learning_rate` | `0.001` |" in card


def test_an_existing_model_is_taught_further(toy: Toy, cached: Path, tmp_path: Path) -> None:
    student = tiny.save_model(tmp_path / "student", "mistral", seed=3)
    options = ["--set", "student.config=null", "--set", f"student.model={student}", "--set", "train.steps=2"]
    train(toy, cached, tmp_path / "run", *options)
    assert json.loads((tmp_path / "run" / "student" / "model" / "config.json").read_text())["model_type"] == "mistral"


def test_help_names_the_ways_on(cached: Path) -> None:
    assert "--use-sealed-only" in run(STAGE, "--help").stdout
