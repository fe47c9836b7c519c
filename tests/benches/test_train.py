"""bench train at a toy size, through the command; and online distillation against the dense formula."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.benches.online_kd import OnlineKD, online_step
from pipeline.benches.shapes import make_shape, random_sequences
from tests.stages.toys import Ended, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured on Linux")
TOY = ("--student", "tiny", "--teacher", "tiny", "--sequence-length", "16", "--batch-size", "2", "--rounds", "1")
HAS_ACCELERATE = importlib.util.find_spec("accelerate") is not None
ALWAYS = {"labels_only", "online_kd"}


def bench(run_dir: Path) -> tuple[Ended, dict[str, Any]]:
    """The command, and its figures by name."""
    ended = run("bench", "train", *TOY, "--device", "cpu", "--run-dir", str(run_dir), "--json")
    assert ended.code == 0, ended.stderr
    assert not any(path.is_file() for path in run_dir.rglob("*")), "its cache is gone again"
    return ended, {result["name"]: result for result in json.loads(ended.stdout)["results"]}


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ACCELERATE, reason="accelerate is not installed")
def test_every_side_is_measured(tmp_path: Path) -> None:
    _, results = bench(tmp_path / "run")
    sides = ALWAYS | {"trainer"}
    ratios = {name for name in results if name.startswith("train.vs_")}
    assert ratios == {f"train.vs_{side}" for side in sides}
    assert results["train.vs_trainer"]["goal"] == ">= 0.97"
    assert (results["train.data_wait_share"]["goal"], results["train.data_wait_share"]["value"] < 1) == (
        "<= 0.02",
        True,
    )
    assert {f"train.tokens_per_second.{side}" for side in sides | {"ours"}} <= results.keys()
    assert all(result["value"] > 0 for result in results.values())


@pytest.mark.slow
def test_without_accelerate_the_rest_is_reported_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    ended, results = bench(tmp_path / "run")
    assert 'pip install "sad-pipeline[bench]"' in ended.stderr
    assert "train.vs_trainer" not in results
    assert {f"train.vs_{side}" for side in ALWAYS} <= results.keys()
    ours, online = (results[f"train.memory_gb.{name}"]["value"] for name in ("ours", "online_kd"))
    assert results["train.memory_vs_online_kd"]["value"] == pytest.approx(ours / online)


def test_online_distillation_is_the_dense_formula() -> None:
    cpu = torch.device("cpu")
    teacher, student = (make_shape("tiny", torch.float32, cpu, seed=seed) for seed in (0, 1))
    ids = torch.from_numpy(random_sequences(2, 0, 16, 300).input_ids.astype("int64"))
    p, q = (m.model(ids[:, :-1]).logits.double().log_softmax(-1) for m in (teacher, student))
    kl = (p.detach().exp() * (p.detach() - q)).sum(-1).mean()
    expected = 0.1 * -q.gather(2, ids[:, 1:, None]).mean() + 0.9 * kl
    parameters = list(student.model.parameters())
    gradients = torch.autograd.grad(expected, parameters)
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    before = [parameter.detach().clone() for parameter in parameters]
    loss = online_step(OnlineKD(teacher, student, torch.optim.SGD(parameters, lr=1.0)), ids)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
    for was, is_now, gradient in zip(before, parameters, gradients, strict=True):
        step = gradient / norm.clamp(min=1.0)  # clipped to a norm of 1
        torch.testing.assert_close(was - is_now.detach(), step, rtol=1e-3, atol=1e-6)


def test_an_unknown_shape_is_refused(tmp_path: Path) -> None:
    ended = run("bench", "train", "--student", "huge", "--run-dir", str(tmp_path / "run"))
    assert (ended.code, "smollm2-135m" in ended.stderr) == (2, True)
