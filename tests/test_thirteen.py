"""The thirteen faults that Student-Aware Distillation 3.0 fixed, each with a test; most through the real commands.

Numbers are those of README's table. What each part does in detail is tested beside its code; here is what a user sees.
"""

# ruff: noqa: F811  (fixtures are arguments of the name they are imported by)

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers.models.llama.modeling_llama import LlamaMLP

from pipeline import console
from pipeline.distill import learner as learner_module
from pipeline.distill.guards import memory_guard
from pipeline.distill.guards.alarms import Alarms
from pipeline.distill.guards.memory_guard import MemoryGuard
from pipeline.distill.loss.record_tensors import RecordTensors
from pipeline.distill.loss.softening import soften
from pipeline.distill.losses import LossParts
from pipeline.distill.step_result import StepResult
from pipeline.distill.validation import Validation
from pipeline.distill.weighting.loss_weights import StepWeights
from pipeline.models import Head
from stages import train_student
from stages.config import load_run_config
from tests.distill import dense
from tests.distill.cases import logits, on_logits
from tests.stages.conftest import _one_thread, cached, toy, trained  # noqa: F401
from tests.stages.toys import Toy, run, status, tree
from tests.stages.trainings import STAGE, checkpoint, metrics, shown, train

LARGE = ("kaggle-p100", "kaggle-t4x2", "original-3.0", "kaggle-chat")
WILD = ("student.config.initializer_range=1.0", "student.config.hidden_size=256", "train.learning_rate=1e-6")


def options(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def lines_of(run_dir: Path, kind: str = "train") -> list[dict[str, Any]]:
    return [line for line in metrics(run_dir) if line["kind"] == kind]


def test_01_training_runs_past_every_interval(toy: Toy, cached: Path, tmp_path: Path) -> None:
    """Seven steps, and intervals that end before, at and after them."""
    for log_every, evaluate_every in ((1, 100), (3, 2), (7, 7), (100, 1)):
        run_dir = tmp_path / f"{log_every}-{evaluate_every}"
        intervals = (f"train.log_every={log_every}", f"train.evaluate_every={evaluate_every}")
        train(toy, cached, run_dir, *options("train.steps=7", *intervals))
        assert status(run_dir)["state"] == "complete"
        for kind, every in (("train", log_every), ("validation", evaluate_every)):
            due = [step for step in range(1, 8) if step % every == 0 or step == 7]
            assert sorted({line["step"] for line in lines_of(run_dir, kind)}) == due


def test_02_perplexity_is_capped_with_a_warning(toy: Toy, cached: Path, tmp_path: Path) -> None:
    ended = train(toy, cached, tmp_path / "run", *options(*WILD, "train.steps=2", "train.evaluate_every=1"))
    validated = lines_of(tmp_path / "run", "validation")
    assert min(line["ce"] for line in validated) > 20
    assert {line["perplexity"] for line in validated} == {math.exp(20)}
    assert ended.stderr.count("logged as the perplexity exp(20)") == 1


@pytest.mark.parametrize("what", ["records", "ce", "gradient"])
def test_03_what_is_not_finite_never_reaches_the_optimizer(
    what: str, toy: Toy, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the fifth micro-batch on one position's record, or its label loss alone, or the gradient alone is not."""
    real, seen = learner_module.distillation_loss, 0

    def poisoned(hidden_nD: torch.Tensor, head: Any, labels_n: torch.Tensor, records: Any, **kwargs: Any) -> LossParts:
        nonlocal seen
        seen += 1
        if seen > 4 and what == "records":
            records.tail_NR[3, 0] = math.nan
        if seen > 4 and what == "gradient":
            hidden_nD.register_hook(lambda gradient_nD: gradient_nD * math.inf)
        parts = real(hidden_nD, head, labels_n, records, **kwargs)
        if seen > 4 and what == "ce":
            parts.ce_N[3] = math.inf
        return parts

    monkeypatch.setattr(learner_module, "distillation_loss", poisoned)
    saving = options(f"cache.roots=[{cached}]", "train.checkpoint_every=1", "train.max_skipped_in_a_row=3")
    toy.ran(STAGE, tmp_path / "short", *saving, *options("train.steps=5"))
    before, after = (tree(checkpoint(tmp_path / "short", step)) for step in (4, 5))
    for name in ("weights.safetensors", "optimizer.safetensors", "average.safetensors"):
        assert before[name] == after[name], f"{name} changed in a skipped step"

    seen = 0
    ended = toy.run(STAGE, tmp_path / "run", *saving, *options("train.steps=30"))
    assert ended.code == 1
    assert "the last 3 steps" in ended.stderr
    assert f"--fork-from {checkpoint(tmp_path / 'run', 4)}" in ended.stderr, "the good checkpoint is named"
    skipped = lines_of(tmp_path / "run", "skipped")
    assert [line["step"] for line in skipped] == [5, 6, 7]
    assert [line["skipped_in_a_row"] for line in skipped] == [1, 2, 3]
    for line in skipped:
        assert line["what"][0] == what
        assert len(line["sequences"]) == (4 if what == "gradient" else 1)
        assert f"Sequences of the cache: {', '.join(map(str, line['sequences']))}." in ended.stderr
    folders = sorted((tmp_path / "run" / "student" / "checkpoints").glob("step-*"))
    assert folders[-1] == checkpoint(tmp_path / "run", 4), "no checkpoint was made of skipped steps"


def test_04_losses_too_high_are_said_and_low_ones_never(
    toy: Toy, cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = train(toy, cached, tmp_path / "run", *options(*WILD, "train.steps=4", "train.warmup_steps=2"))
    said = [line for line in ended.stderr.splitlines() if "the ce part of the loss is" in line]
    assert len(said) == 1
    assert said[0].startswith("note: step 3: "), "the first step after warm-up"

    def heard(step: int, nats: float) -> str:
        console._said.clear()
        figures = {"loss": nats, "ce": nats, "kd": nats, "gradient_norm": 1.0}
        result = StepResult.of(figures, 1.0, StepWeights(0.1, 0.9, 0.0, None), 1e-3, 1.0, 1, None)
        Alarms(warmup_steps=100).hear(step, result)
        return capsys.readouterr().err

    assert not heard(100, 15.0), "still warming up"
    assert heard(101, 10.1)
    assert "after step 1,000" in heard(1001, 20.1)
    assert not any(heard(step, low) for step in (101, 1001) for low in (9.9, 1e-9, 0.0))


def test_05_stops_early_with_the_best_weights(
    toy: Toy, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validations that get better by less than counts, stopped after each: the wait goes on where it was."""
    nats = iter([5.0, 6.0, 6.0, 4.8, 4.9, 6.0])  # raw weights and averaged ones, of three steps
    monkeypatch.setattr(train_student, "validate", lambda *args: Validation(next(nats), 1.0, 0.5))
    patient = options("train.patience=2", "train.min_delta=0.5", "train.evaluate_every=1", "train.learning_rate=1e-2")
    for _ in range(2):
        train(toy, cached, tmp_path / "run", *patient, "--time-budget", "1e-6")
    train(toy, cached, tmp_path / "run", *patient)
    left = status(tmp_path / "run")
    assert left["progress"] == {"steps": 3, "of": 3}
    assert "stopped early after step 3 of 12, after 2 evaluations without improvement" in left["message"]
    state = json.loads((checkpoint(tmp_path / "run", 3) / "state.json").read_text())
    assert state["best"] == {"step": 2, "weights": "ema", "ce": 4.8}
    assert "of step 2 of 3" in (tmp_path / "run" / "student" / "model" / "README.md").read_text()
    best = load_file(checkpoint(tmp_path / "run", 2) / "average.safetensors")
    exported = load_file(tmp_path / "run" / "student" / "model" / "model.safetensors")
    assert exported.keys() == best.keys()
    assert all(torch.equal(exported[name], best[name]) for name in best)
    for step, name in ((2, "weights"), (3, "weights"), (3, "average")):
        other = load_file(checkpoint(tmp_path / "run", step) / f"{name}.safetensors")
        assert not any(torch.equal(other[name], best[name]) for name in best)


def test_06_memory_gets_its_room(toy: Toy, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card on which 128 positions and 2 sequences fit, an average on the host, activations made again."""
    real, average = MemoryGuard.__init__, learner_module.WeightAverage
    logits_float32, mlp, chunks, homes, passes = Head.logits_float32, LlamaMLP.forward, [], [], 0

    def with_probe(self: MemoryGuard, *args: Any) -> None:
        real(self, *args)
        self._probe = lambda: (90 * (self.chunk_positions > 64 or self.rows() > 2), 100)

    def counted(self: Any, *args: Any) -> Any:
        nonlocal passes
        passes += self.training
        return mlp(self, *args)

    def with_logits(self: Head, hidden_nD: torch.Tensor, *args: Any) -> torch.Tensor:
        chunks.append(len(hidden_nD))
        return logits_float32(self, hidden_nD, *args)

    monkeypatch.setattr(MemoryGuard, "__init__", with_probe)
    monkeypatch.setattr(memory_guard, "CHUNK_BEFORE_ROWS", 64)  # a step here has 128 positions
    monkeypatch.setattr(learner_module, "WeightAverage", lambda *args: homes.append(args[2]) or average(*args))
    monkeypatch.setattr(LlamaMLP, "forward", counted)
    monkeypatch.setattr(Head, "logits_float32", with_logits)
    settings = options("train.chunk_positions=128", "train.ema_device=host", "train.gradient_checkpointing=true")
    starts = [("--time-budget", "1e-6"), ("--time-budget", "1e-6"), ()]
    ended = [train(toy, cached, tmp_path / "run", *settings, *options("train.steps=6"), *more) for more in starts]
    said = [line for one in ended for line in one.stderr.splitlines() if "memory_guard" in line]
    assert [line.rpartition("from here on ")[2] for line in said] == [
        "the output matrix takes 64 positions at once instead of 128",
        "a step is 2 passes of 2 sequences instead of 4, its batch stays the same",
    ], "each said once, and a later start goes on with both"
    state = json.loads((checkpoint(tmp_path / "run", 6) / "state.json").read_text())
    assert state["learner"]["memory"] == {"chunk_positions": 64, "of": 128, "parts": 2}
    assert passes == 2 * (1 + 1 + 4 * 2), "each pass of its one layer, and again in backward"
    assert sum(size > 64 for size in chunks) == 1, "of the first step alone"
    assert homes == [torch.device("cpu")] * 3


def test_07_balance_keeps_each_part_at_its_share(toy: Toy, cached: Path, tmp_path: Path) -> None:
    """Labels and the teacher's order, whose nats are half those of a label."""
    halves = ("train.ce_weight=0.5", "train.kd_weight=0", "train.rank_weight=0.5")

    def labels_share(line: dict[str, Any]) -> float:
        labels, order = line["ce_weight"] * line["ce"], line["rank_weight"] * line["rank"]
        return float(labels / (labels + order))

    train(toy, cached, tmp_path / "off", *options(*halves, "train.balance=false"))
    train(toy, cached, tmp_path / "on", *options(*halves, "train.balance_decay=0.5"))
    off, on = lines_of(tmp_path / "off"), lines_of(tmp_path / "on")
    assert {(line["ce_weight"], line["rank_weight"]) for line in off} == {(0.5, 0.5)}
    assert min(labels_share(line) for line in off) > 0.6, "labels outweigh by their magnitude alone"
    assert [labels_share(line) for line in on[1:]] == pytest.approx([0.5] * 11, abs=0.02)
    state = json.loads((checkpoint(tmp_path / "on", 12) / "state.json").read_text())
    counts = state["learner"]["loss_weights"]["magnitudes"]["counts"]
    assert counts == {"ce": 12, "rank": 12}, "and what it rests on is in the checkpoint"


def test_08_what_happens_can_be_seen(toy: Toy, trained: Path) -> None:
    keys = {"loss", "ce", "kd", "ce_weight", "kd_weight", "temperature", "learning_rate", "effective_draws"}
    keys |= {"gradient_norm", "gradient_norm_clipped", "gradient_norm_attention", "gradient_norm_mlp", "skipped_steps"}
    for line in lines_of(trained):
        assert keys <= line.keys()
        assert line["gradient_norm_clipped"] <= line["gradient_norm"]
        assert 0 < line["effective_draws"] <= 4
    timings = [json.loads(line) for line in (trained / "student" / "timings.jsonl").read_text().splitlines()]
    assert all(min(line["tokens_per_second"], line["data_wait_share"], line["memory_bytes"]) > 0 for line in timings)


def test_08_trouble_is_said_and_progress_shown(
    toy: Toy, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student with far too large weights, on a card that is nearly full, whose memory is not watched."""
    has_tensorboard = importlib.util.find_spec("tensorboard") is not None  # an extra
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(memory_guard, "card_probe", lambda device: lambda: (95, 100))
    settings = (*WILD, "train.steps=2", "train.memory_guard=0", f"train.tensorboard={has_tensorboard}")
    said = train(toy, cached, tmp_path / "run", *options(*settings)).stderr
    assert "note: step 1: the gradient's norm is" in said
    assert said.count("95% of the card's memory is in use, above 90%") == 1
    first, last = lines_of(tmp_path / "run")
    ce, kd = (f"{part} {first[part]:.3f} × {first[f'{part}_weight']:.2g}" for part in ("ce", "kd"))
    norm = f"norm {first['gradient_norm']:.2g}, lr {first['learning_rate']:.1e}, τ 1"
    draws = f"{first['effective_draws']:.0f} draws, data wait "
    assert f"loss {first['loss']:.3f}, {ce}, {kd}, {norm}" in said
    assert re.search(re.escape(draws) + r"[0-9]+%, memory 95%", said)
    if has_tensorboard:
        assert shown(tmp_path / "run")["train/ce"] == pytest.approx({1: first["ce"], 2: last["ce"]}, rel=1e-6)


@pytest.mark.parametrize("name", LARGE)
def test_09_large_configs_warm_up_and_learn_slowly(name: str) -> None:
    settings = load_run_config(name).train
    assert (settings.warmup_steps, settings.learning_rate) == (1000, 3e-5)


@pytest.mark.parametrize("shape", ["linear", "cosine", "constant"])
def test_10_temperature_and_weights_have_curricula(toy: Toy, cached: Path, tmp_path: Path, shape: str) -> None:
    end = 3.0 if shape == "constant" else 2.0
    temperature = f"train.temperature={{start: 3, end: {end}, shape: {shape}}}"
    still = ("train.router=uniform", "train.balance=false")  # nothing else moves a weight
    changes = options(temperature, "train.ce_weight=1", "train.ce_weight_end=0", *still)
    train(toy, cached, tmp_path / "run", *changes)
    shares = [step / 11 for step in range(12)]
    if shape == "cosine":
        shares = [(1 - math.cos(math.pi * share)) / 2 for share in shares]
    lines = lines_of(tmp_path / "run")
    assert [line["temperature"] for line in lines] == pytest.approx([3 + share * (end - 3) for share in shares])
    assert [line["ce_weight"] for line in lines] == pytest.approx([1 - step / 11 for step in range(12)])
    for line in lines:  # and what is logged is what was learned with
        kd_weight = line["kd_weight"] * line["temperature"] ** 2
        assert line["loss"] == pytest.approx(line["ce_weight"] * line["ce"] + kd_weight * line["kd"], rel=1e-4)

    # Exact at every temperature on the way: the teacher's whole distribution at τ, cut into head and tail.
    teacher = dense.make_teacher(logits(20, 500, seed=1), head_size=32, num_draws=0)
    for line in lines:
        head_NK, tail_N = soften(RecordTensors.from_records(teacher.records, "cpu"), line["temperature"])
        softened_NV = (teacher.logp_NV / line["temperature"]).log_softmax(1)
        ids_NK = torch.from_numpy(teacher.records.ids_TK.astype("int64"))
        dense_tail_N = softened_NV.masked_fill(~teacher.tail_NV, -torch.inf).logsumexp(1)
        assert float((head_NK - softened_NV.gather(1, ids_NK)).abs().max()) < 0.003
        assert float((tail_N - dense_tail_N).abs().max()) < 0.003


def test_11_the_p100_takes_four_sequences_eight_times() -> None:
    settings = load_run_config("kaggle-p100").train
    assert (settings.batch_size, settings.accumulation) == (4, 8)


def test_12_data_is_checked_before_compute_and_in_the_report(toy: Toy, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for path in sorted(toy.texts.iterdir()):
        (texts / path.name).write_bytes(path.read_bytes())
    (texts / "again.txt").write_bytes((texts / "000.txt").read_bytes())
    (texts / "nothing.txt").write_text("  \n")
    ended = toy.run("cache-teacher", tmp_path / "run", *options(f"data.path={texts}"))
    assert ended.code == 0
    said, scored = ended.stderr.index("26 documents read, 24 kept, 2 dropped"), ended.stderr.index("shards sealed")
    assert said < scored, "before the teacher runs"
    assert run("report", str(tmp_path / "run")).code == 0
    page = (tmp_path / "run" / "report" / "report.html").read_text(encoding="utf-8")
    words = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    for told in ("documents read 26 ", "documents kept 24 ", "duplicate 1 ", "empty 1 nothing.txt"):
        assert told in words

    (toy.folder / "only-nothing").mkdir(exist_ok=True)
    (toy.folder / "only-nothing" / "nothing.txt").write_text("")
    ended = toy.run("cache-teacher", tmp_path / "none", *options(f"data.path={toy.folder / 'only-nothing'}"))
    assert ended.code == 2
    assert not tree(tmp_path / "none" / "cache"), "nothing was computed of what cannot be used"


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
def test_13_the_top_256_with_the_tail_right(temperature: float) -> None:
    teacher = dense.make_teacher(logits(6, 2000, seed=2), head_size=256, num_draws=16)
    student_NV = logits(6, 2000, seed=3)
    full_N = dense.full_kl(student_NV.double(), teacher.logp_NV, temperature)
    for objective in ("subset", "bucket", "sampled_tail"):
        found = on_logits(student_NV, teacher, objective, temperature)
        assert found.kd_N is not None
        expected_N = dense.kd(student_NV.double(), teacher, temperature, objective)
        torch.testing.assert_close(found.kd_N.double(), expected_N, rtol=2e-3, atol=2e-3)
        if objective == "bucket":
            assert bool((found.kd_N.double() <= full_N + 1e-5).all())
