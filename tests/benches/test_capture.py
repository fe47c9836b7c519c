"""bench capture at a toy size, through the command; and that its models and parts are what they claim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.benches.capture import PARTS, CaptureBench
from pipeline.benches.shapes import (
    ENTROPY_NATS,
    layout_of,
    make_shape,
    mean_entropy,
    plan_of,
    random_sequences,
)
from pipeline.cache.plan import PLAN_NAME, SEQUENCES_NAME
from pipeline.cache.sequence_file import write_sequences
from pipeline.cache.verify import verify_cache
from pipeline.models.head import Head
from pipeline.models.teacher import Teacher
from tests.stages.toys import run

TOY = ("--shape", "tiny", "--sequence-length", "16", "--batch-size", "2", "--num-batches", "3", "--device", "cpu")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command prints, by name."""
    run_dir = tmp_path_factory.mktemp("bench") / "run"
    ended = run("bench", "capture", *TOY, "--rounds", "1", "--run-dir", str(run_dir), "--json")
    assert ended.code == 0, ended.stderr
    assert not any(path.is_file() for path in run_dir.rglob("*")), "what was captured is gone again"
    return {result["name"]: result for result in json.loads(ended.stdout)["results"]}


def test_figures_and_goal(results: dict[str, Any]) -> None:
    assert results["capture.vs_forward"]["goal"] == ">= 0.82"
    assert results["capture.vs_forward"]["value"] > 0
    assert results["capture.bytes_per_token"]["value"] > 16
    assert results["capture.durability_share"]["goal"] == "<= 0.03"
    assert 0 < results["capture.durability_share"]["value"] < results["capture.shard_write_seconds"]["value"]


def test_parts_are_all_of_scoring_encoding_and_writing(results: dict[str, Any]) -> None:
    parts = {name: result["value"] for name, result in results.items() if name.startswith("capture.us.")}
    assert parts.keys() == {f"capture.us.{part}" for part in (*PARTS, "other", "encode", "write")}
    assert min(parts.values()) > 0


def test_entropy_is_that_of_a_trained_model(results: dict[str, Any]) -> None:
    assert results["capture.entropy_nats"]["value"] == pytest.approx(ENTROPY_NATS, rel=0.2)
    causal = make_shape("tiny", torch.float32, CPU)
    ids_BT = torch.from_numpy(random_sequences(4, 0, 32, 300).input_ids[:, :-1].astype("int64"))
    with torch.no_grad():
        logits_BTV = causal.model(ids_BT).logits
    logp_BTV = logits_BTV.double().log_softmax(-1)
    assert float(-(logp_BTV.exp() * logp_BTV).sum(-1).mean()) == pytest.approx(ENTROPY_NATS, rel=0.2)
    assert mean_entropy(logits_BTV.flatten(0, 1)) == pytest.approx(float(-(logp_BTV.exp() * logp_BTV).sum(-1).mean()))


def make_bench(folder: Path) -> CaptureBench:
    """Both sides at a toy size."""
    teacher = Teacher(make_shape("tiny", torch.float32, CPU), layout_of(300), 0, batch_size=2, chunk_positions=8)
    return CaptureBench(teacher, random_sequences(6, 0, 16, 300), folder / "cache")


def test_the_shard_that_is_timed_is_a_sound_one(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    seal = bench.capture()
    assert (seal.count, seal.num_scored) == (6, 96)
    plan = plan_of(bench.teacher, bench.sequences, sequences_digest="")
    assert plan.hash == seal.plan_hash
    plan.save(tmp_path / "cache" / PLAN_NAME)
    write_sequences(tmp_path / "cache" / SEQUENCES_NAME, bench.sequences)
    assert not [problem for problem in verify_cache(tmp_path) if "shards" in str(problem.path)]


def test_the_bare_side_computes_every_logit_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    product = Head.logits_float32

    def counted(self: Head, hidden_nD: torch.Tensor) -> torch.Tensor:
        rows.append(len(hidden_nD))
        return product(self, hidden_nD)

    bench = make_bench(tmp_path)
    monkeypatch.setattr(Head, "logits_float32", counted)
    bench.forward()
    bare = list(rows)
    rows.clear()
    bench.capture()
    assert bare == rows == [8] * 12


def test_an_unknown_shape_is_refused(tmp_path: Path) -> None:
    ended = run("bench", "capture", "--shape", "huge", "--run-dir", str(tmp_path / "run"))
    assert (ended.code, "smollm2-135m" in ended.stderr) == (2, True)
