"""train-student with a router, balance and moving weights: what it logs, keeps, forks, and shows."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.stages.toys import Toy, copy, run
from tests.stages.trainings import STAGE, checkpoint, metrics, train

ROUTES = {f"route_{part}_{name}" for part in ("ce", "kd", "rank") for name in ("mean", "p10", "p50", "p90")}


def options(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="module")
def routed(toy: Toy, cached: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("routed") / "run"
    settings = ("train.router=learned", "train.rank_weight=0.3", "train.rank_weight_end=0.1")
    train(toy, cached, run_dir, *options(*settings))
    return run_dir


@pytest.fixture(scope="module")
def plain(toy: Toy, cached: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("plain") / "run"
    train(toy, cached, run_dir, *options("train.router=uniform"))
    return run_dir


def test_every_logged_step_says_its_weights_and_routes(routed: Path) -> None:
    lines = [line for line in metrics(routed) if line["kind"] == "train"]
    assert len(lines) == 12
    for line in lines:
        assert {name for name in line if name.startswith("route_")} == ROUTES
        assert line["route_kd_p10"] <= line["route_kd_p50"] <= line["route_kd_p90"]
        assert line["rank"] > 0
    assert lines[0]["rank_weight"] == 0.3
    assert len({line["ce_weight"] for line in lines}) == 12  # balance moves it at every step
    first, last = lines[0], lines[-1]
    assert first["route_ce_p10"] == pytest.approx(1.0)  # a gate that has learned nothing yet
    assert last["route_ce_p90"] > last["route_ce_p10"]


def test_the_gate_is_in_the_checkpoint(routed: Path) -> None:
    folder = checkpoint(routed, 12)
    gate = load_file(folder / "router.safetensors")
    assert gate["weight_PF"].shape == (3, 6)
    assert abs(gate["weight_PF"]).max() > 0
    assert gate["weight_PF/step"] == 11  # one a step, from the second on
    state = json.loads((folder / "state.json").read_text())["learner"]["loss_weights"]
    assert state["router"] == "learned"
    assert state["magnitudes"]["counts"] == {"ce": 12, "kd": 12, "rank": 12}


def test_the_report_draws_them(routed: Path) -> None:
    assert run("report", str(routed)).code == 0
    page = html.unescape((routed / "report" / "report.html").read_text(encoding="utf-8"))
    for title in ("Routing", "Weights of the loss", "Loss to the teacher's order"):
        assert title in page


def test_uniform_logs_no_routes_and_keeps_no_gate(plain: Path) -> None:
    assert not {name for line in metrics(plain) for name in line if name.startswith("route_")}
    assert not (checkpoint(plain, 12) / "router.safetensors").exists()


def test_where_nothing_is_said_a_gate_learns(trained: Path) -> None:
    assert {name for line in metrics(trained) for name in line if name.startswith("route_")} == ROUTES
    assert (checkpoint(trained, 12) / "router.safetensors").is_file()


@pytest.mark.parametrize("setting", ["train.router=learned", "train.router=gap"])
def test_a_fork_may_begin_to_route(setting: str, toy: Toy, cached: Path, plain: Path, tmp_path: Path) -> None:
    """From a training that never did, and from one whose checkpoint is older than any router."""
    older = copy(plain, tmp_path / "older")
    state_path = checkpoint(older, 12) / "state.json"
    state = json.loads(state_path.read_text())
    del state["learner"]["loss_weights"]
    _rewrite(state_path, state)
    for origin in (plain, older):
        run_dir = tmp_path / f"from-{origin.name}-{origin.parent.name}"
        train(toy, cached, run_dir, *options(setting, "train.steps=14"), "--fork-from", str(origin))
        lines = [line for line in metrics(run_dir) if line["kind"] == "train" and line["step"] > 12]
        assert [set(line) >= ROUTES for line in lines] == [True, True]


def _rewrite(state_path: Path, state: dict[str, object]) -> None:
    """Another state, with the COMMIT.json that belongs to it."""
    from pipeline import files

    digest = files.write_json(state_path, state)
    commit_path = state_path.with_name("COMMIT.json")
    commit = json.loads(commit_path.read_text())
    commit["state.json"] = {"size_bytes": digest.size_bytes, "xxh3_128": digest.xxh3_128}
    files.write_json(commit_path, commit)


def test_labels_alone_have_nothing_to_route(toy: Toy, cached: Path, tmp_path: Path) -> None:
    words = options("train.ce_weight=1", "train.kd_weight=0", "train.router=trust", f"cache.roots=[{cached}]")
    ended = toy.run(STAGE, tmp_path / "run", *words)
    assert ended.code == 2
    assert "trains on labels only" in ended.stderr
