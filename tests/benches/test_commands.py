"""Every bench, for real and at toy size, through the command line: its figures are there and are numbers."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.stages.toys import make_toy, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured on Linux")

TINY = (
    "{model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, "
    "max_position_embeddings: 1024}"
)
SETTINGS = {
    "data.max_documents": "24",
    "data.validation_fraction": "0.2",
    "data.sequence_length": "64",
    "cache.head_size": "16",
    "demo.vocab_size": "320",
    "demo.teacher": TINY,
    "demo.teacher_steps": "3",
    "demo.teacher_batch_size": "4",
}


def figures(*arguments: str) -> dict[str, dict[str, Any]]:
    """Name -> figure, of a bench that went well."""
    ended = run("bench", *arguments, "--json")
    assert ended.code == 0, ended.stderr
    described = json.loads(ended.stdout)
    assert set(described) == {"machine", "results"}
    assert {"cpu", "cores", "threads", "memory_gb", "torch", "numpy", "zarr", "gpu"} <= set(described["machine"])
    found = {result["name"]: result for result in described["results"]}
    for result in found.values():
        assert set(result) == {"name", "value", "unit", "goal", "ok"}
        assert math.isfinite(result["value"]), result
        assert (result["goal"] is None) == (result["ok"] is None)
        assert result["name"] in ended.stderr
    return found


@pytest.mark.slow
def test_head() -> None:
    sizes = ["--positions", "64", "--width", "16", "--vocab-size", "2048", "--head-size", "16"]
    found = figures("head", *sizes, "--rounds", "1", "--device", "cpu")
    goals = {
        "head.time_vs_ce": "<= 1.25",
        "head.time_vs_ce.default": "<= 1.25",
        "head.time_vs_whole": "<= 1",
        "head.memory_vs_whole": "<= 0.125",
        "head.memory_growth": "<= 1.1",
        "kd.speedup_vs_full": ">= 96",
        "kd.memory_vs_full": ">= 141",
    }
    assert {name: found[name]["goal"] for name in goals} == goals
    sides = {name: found[f"head.time_vs_ce.{name}"]["value"] for name in ("bucket", "sampled_tail", "tau1", "subset")}
    assert found["head.time_vs_ce"]["value"] == max(sides["bucket"], sides["sampled_tail"])
    assert found["head.time_vs_whole.unchunked"]["goal"] is None
    assert found["head.ms.ce"]["unit"] == "ms"


@pytest.mark.slow
def test_codec_makes_its_teacher_once(tmp_path: Path) -> None:
    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    command = ["codec", "--run-dir", str(tmp_path / "bench"), *settings]
    first = figures(*command)
    assert first["codec.bytes_per_token.fine"]["goal"] == "<= 400"
    assert first["codec.bytes_per_token.compact"]["goal"] == "<= 110"
    assert first["codec.bytes_per_token.sampled"]["goal"] == "<= 40"
    for arm in ("sampled_tail", "bucket", "subset", "renormalised_head", "compact", "sampled"):
        assert 0 < first[f"kd.gradient_angle.{arm}.T1"]["value"] < 180
        assert first[f"kd.gradient_norm.{arm}.T1"]["value"] > 0
    weights = tmp_path / "bench" / "teacher" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert figures(*command) == first
    assert weights.stat().st_mtime_ns == before


@pytest.mark.slow
def test_codec_and_reader_of_ones_own_teacher_and_text(tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy", max_position_embeddings=1024)
    config = ["-c", str(toy.config), "--run-dir", str(tmp_path / "bench")]
    assert figures("codec", *config)["codec.positions"]["value"] > 0
    found = figures("reader", *config, "--rounds", "1")
    assert found["reader.positions_per_second"]["goal"] == ">= 200,000"
    for name in ("positions_per_second.in_order", "batch_reader_positions_per_second", "peak_memory_mb"):
        assert found[f"reader.{name}"]["value"] > 0
    assert not (tmp_path / "bench" / "teacher").exists()


def test_a_pause_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.pause import PauseRequest

    monkeypatch.setattr(PauseRequest, "reason", lambda self: "it was asked for")
    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    ended = run("bench", "codec", "--run-dir", str(tmp_path / "bench"), *settings, "--json")
    assert (ended.code, ended.stdout) == (0, "")
    assert "The same command goes on from there" in ended.stderr
