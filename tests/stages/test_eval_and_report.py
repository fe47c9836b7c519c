"""eval against an independent dense computation, and the page that report draws of it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.cache import TeacherCache
from pipeline.distill.keeping.checkpoint import newest_checkpoint, save_checkpoint
from tests.stages.toys import Toy, copy, rows_of, run, status, temporaries, tree
from tests.stages.trainings import checkpoint


@pytest.fixture(scope="module")
def evaluated(toy: Toy, cached: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a cache, a student and an evaluation that has everything: a baseline and the teacher at hand."""
    run_dir = copy(trained, tmp_path_factory.mktemp("evaluated") / "run")
    copy(cached / "cache", run_dir / "cache")
    baseline = trained / "student" / "model"
    toy.ran("eval", run_dir, "--set", f"eval.baselines={{same: {baseline}}}", "--set", f"eval.teacher={toy.teacher}")
    return run_dir


def test_validation_while_it_trains_and_eval_find_the_same(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    """The figures that choose the exported weights are those of eval on as many sequences."""
    run_dir = copy(trained, tmp_path / "run")
    toy.ran("eval", run_dir, "--set", f"cache.roots=[{cached}]", "--set", "eval.max_sequences=8")
    lines = [json.loads(line) for line in (run_dir / "student" / "metrics.jsonl").read_text().splitlines()]
    last = {line["weights"]: line for line in lines if line["kind"] == "validation" and line["step"] == 12}
    rows = {row["weights"]: row for row in rows_of(run_dir) if row["kind"] == "student" and row["weights"] in last}
    assert rows.keys() == last.keys() == {"raw", "ema"}
    for weights, row in rows.items():
        assert row["cross_entropy_nats"] == pytest.approx(last[weights]["ce"], rel=1e-5)
        assert row["kl_bucket_nats"] == pytest.approx(last[weights]["kd"], rel=1e-4)
        assert row["top1_agreement"] == pytest.approx(last[weights]["agreement"], rel=1e-6)


def test_texts_of_ones_own_are_continued(toy: Toy, cached: Path, trained: Path, tmp_path: Path) -> None:
    run_dir = copy(trained, tmp_path / "run")
    toy.ran("eval", run_dir, "--set", f"cache.roots=[{cached}]", "--set", "eval.sample_prompts=['def f', 'import ']")
    samples = json.loads((run_dir / "eval" / "eval.json").read_text(encoding="utf-8"))["samples"]
    assert [(sample["prompt"], sample["reference"]) for sample in samples] == [("def f", None), ("import ", None)]


def dense_log_softmax(folder: Path, ids: np.ndarray, starts: np.ndarray) -> torch.Tensor:
    """log q [T, V] in float64 by whole logits, one document at a time: no packing, no head, no chunks."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(folder)).eval()
    begins = np.flatnonzero(starts[:-1]).tolist()
    parts = []
    for begin, end in zip(begins, [*begins[1:], len(ids) - 1], strict=True):
        with torch.no_grad():
            logits = model(torch.from_numpy(ids[begin:end].astype(np.int64))[None]).logits[0, :, :259]
        parts.append(logits.double().log_softmax(dim=1))
    return torch.cat(parts)


def test_the_exported_student_is_measured_as_a_dense_computation_does(evaluated: Path, toy: Toy) -> None:
    ce = kl = agreeing = count = num_bytes = 0.0
    with TeacherCache.open(evaluated) as cache:
        indices = [i for span in cache.sealed if span.split == 1 for i in range(span.first, span.stop)]
        for sequence in (cache[index] for index in indices):
            student_TV, teacher_TV = (
                dense_log_softmax(folder, sequence.input_ids, sequence.document_starts)
                for folder in (evaluated / "student" / "model", toy.teacher)
            )
            scored = torch.from_numpy(np.array(sequence.loss_mask_T))
            labels = torch.from_numpy(sequence.input_ids[1:].astype(np.int64))
            ce -= student_TV.gather(1, labels[:, None])[scored].sum().item()
            kl += (teacher_TV.exp() * (teacher_TV - student_TV)).sum(dim=1)[scored].sum().item()
            agreeing += (teacher_TV.argmax(dim=1) == student_TV.argmax(dim=1))[scored].sum().item()
            count += int(scored.sum())
            num_bytes += sequence.num_bytes
    exported = [row for row in rows_of(evaluated) if row["kind"] == "student" and row["folder"].endswith("model")]
    assert len(exported) == 1
    row = exported[0]
    assert row["cross_entropy_nats"] == pytest.approx(ce / count, rel=1e-5)
    assert row["perplexity"] == pytest.approx(math.exp(ce / count), rel=1e-4)
    assert row["bits_per_byte"] == pytest.approx(ce / (math.log(2) * num_bytes), rel=1e-5)
    assert row["kl_exact_nats"] == pytest.approx(kl / count, rel=1e-4)
    assert row["top1_agreement"] == pytest.approx(agreeing / count, abs=0.02)


def test_figures_are_plausible_and_belong_together(evaluated: Path) -> None:
    value = json.loads((evaluated / "eval" / "eval.json").read_text(encoding="utf-8"))
    assert value["format"] == 1
    assert value["data"]["num_sequences"] == 89
    rows = value["rows"]
    assert [(row["name"], row["kind"], row["weights"]) for row in rows] == [
        ("teacher", "teacher", None),
        ("student at the start", "initial", None),
        ("student", "student", "raw"),
        ("student", "student", "ema"),
        ("same", "baseline", None),
    ]
    for row in rows:
        assert 0 < row["cross_entropy_nats"] < 7
        assert row["perplexity"] == pytest.approx(math.exp(row["cross_entropy_nats"]))
        assert not row["perplexity_capped"]
    for row in rows[1:]:
        assert 0 <= row["kl_bucket_nats"] <= row["kl_exact_nats"] + 2e-3
        assert 0 <= row["top1_agreement"] <= 1
        assert row["tokens_per_second"] > 0
        assert row["peak_memory_bytes"] > 1e6
    exported = next(row for row in rows if row["kind"] == "student" and row["folder"].endswith("student/model"))
    baseline = rows[-1]
    for name in ("cross_entropy_nats", "kl_bucket_nats", "kl_exact_nats", "top1_agreement"):
        assert baseline[name] == pytest.approx(exported[name], rel=1e-6), "the baseline is the same model"
    assert len(value["samples"]) > 0
    assert set(value["samples"][0]["continuations"]) == {"student (raw)", "student (EMA)", "same"}
    assert status(evaluated)["state"] == "complete"


def test_without_a_teacher_there_is_only_the_lower_bound(toy: Toy, evaluated: Path, tmp_path: Path) -> None:
    run_dir = copy(evaluated, tmp_path / "run")
    ended = toy.ran("eval", run_dir)
    assert {row["kl_exact_nats"] for row in rows_of(run_dir)} == {None}
    assert "exact" not in ended.stderr
    assert [row["kl_bucket_nats"] for row in rows_of(run_dir)[:4]] == [
        row["kl_bucket_nats"] for row in rows_of(evaluated)[:4]
    ]


def test_a_paused_training_can_be_looked_at(toy: Toy, cached: Path, tmp_path: Path) -> None:
    run_dir, roots = tmp_path / "run", ("--set", f"cache.roots=[{cached}]")
    toy.ran("train-student", run_dir, *roots, "--time-budget", "1e-6")
    toy.ran("eval", run_dir, *roots)
    assert [(row["kind"], row["weights"]) for row in rows_of(run_dir)][2:] == [("student", "raw"), ("student", "ema")]
    assert run("report", str(run_dir)).code == 0
    assert "continuing after step 1" in toy.ran("train-student", run_dir, *roots).stderr


def test_last_weights_that_are_not_finite_are_left_out_beside_a_good_student(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    """A training whose last steps went wrong ends with its best weights: what it came to is measured all the same."""
    run_dir = copy(trained, tmp_path / "run")
    last = checkpoint(run_dir, 12)
    found = newest_checkpoint([last.parent])
    assert found is not None
    tensors = {name: found.tensors(name) for name in ("weights", "average", "optimizer") if found.holds(name)}
    for name, tensor in tensors["weights"].items():
        tensors["weights"][name] = torch.full_like(tensor, torch.nan)
    state = json.loads((last / "state.json").read_text())
    state["best"]["step"] = 9
    shutil.rmtree(last)
    save_checkpoint(last.parent, "step", 12, tensors, state)
    ended = toy.ran("eval", run_dir, "--set", f"cache.roots=[{cached}]")
    assert "of the last step, is left out" in ended.stderr
    measured = [(row["kind"], row["weights"], row["step"]) for row in rows_of(run_dir)][2:]
    assert ("student", "raw", 12) not in measured
    assert measured


def test_a_baseline_that_is_not_there_leaves_the_figures(toy: Toy, evaluated: Path, tmp_path: Path) -> None:
    run_dir, before = evaluated, tree(evaluated / "eval")
    ended = toy.run("eval", run_dir, "--set", f"eval.baselines={{gone: {tmp_path / 'gone'}}}")
    assert ended.code == 2
    assert str(tmp_path / "gone") in ended.stderr
    assert tree(evaluated / "eval") == before


def test_the_page_is_written_whole_and_tells_what_is_missing(cached: Path, evaluated: Path, tmp_path: Path) -> None:
    assert run("report", str(evaluated)).code == 0
    page = (evaluated / "report" / "report.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert page.count("<svg") >= 4
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert temporaries(evaluated) == []

    partial = copy(cached, tmp_path / "partial")
    assert run("report", str(partial)).code == 0
    assert (partial / "report" / "report.html").is_file()
    (tmp_path / "empty").mkdir()
    assert run("report", str(tmp_path / "empty")).code == 6


def test_the_page_sets_another_run_beside_this_one(evaluated: Path, trained: Path, tmp_path: Path) -> None:
    run_dir = copy(evaluated, tmp_path / "run")
    assert run("report", str(run_dir), "--compare", f"another one={trained}").code == 0
    assert "another one" in (run_dir / "report" / "report.html").read_text(encoding="utf-8")
    ended = run("report", str(run_dir), "--compare", "nothing")
    assert ended.code == 2
    assert "expected NAME=DIR" in ended.stderr
