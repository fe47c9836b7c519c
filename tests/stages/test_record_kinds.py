"""The kinds compact and sampled through every stage, and what they cannot give refused before any work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache import TeacherCache
from tests.stages.refusals import refuse
from tests.stages.toys import Toy, run, status, tree

SETTINGS = {
    "compact": ("cache.kind=compact", "cache.head_size=200", "cache.head_mass=0.5"),
    "sampled": ("cache.kind=sampled", "cache.head_size=256", "cache.draw_beta=1", "cache.num_draws=12"),
}


def options(kind: str, *more: str) -> list[str]:
    return [word for setting in (*SETTINGS[kind], *more) for word in ("--set", setting)]


@pytest.fixture(scope="module", params=SETTINGS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run_dir(toy: Toy, kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of this kind whose stages are all complete."""
    folder = tmp_path_factory.mktemp(kind) / "run"
    for stage in ("cache-teacher", "train-student", "eval"):
        toy.ran(stage, folder, *options(kind))
    return folder


def test_every_stage_completes(run_dir: Path, kind: str) -> None:
    assert status(run_dir)["state"] == "complete"
    with TeacherCache.open(run_dir) as cache:
        assert cache.complete
        assert cache.plan.layout.kind == kind
        sizes = (cache.read(np.arange(8))[1].logprobs_TK > -np.inf).sum(axis=1)
    assert len(set(sizes.tolist())) > 2  # heads of several sizes
    lines = [json.loads(line) for line in (run_dir / "student" / "metrics.jsonl").read_text().splitlines()]
    kd = [line["kd"] for line in lines if "kd" in line]
    assert len(kd) >= 12
    assert np.isfinite(kd).all()


def test_verify_report_and_inspect(run_dir: Path, kind: str) -> None:
    assert run("verify", str(run_dir)).code == 0
    assert run("report", str(run_dir)).code == 0
    page = (run_dir / "report" / "report.html").read_text(encoding="utf-8")
    assert {"compact": "hold 50% of the mass", "sampled": "12 of 259 tokens are drawn"}[kind] in page
    seen = json.loads(run("inspect", str(run_dir), "--sequence", "0", "--json").stdout)
    assert seen["kind"] == kind
    for position in seen["sequences"][0]["positions"]:
        assert position["choices"]
        assert all(0 < choice["probability"] <= 1 for choice in position["choices"])
        assert (position["tail_mass"] is None) == (kind == "sampled")
    assert run("inspect", str(run_dir), "--sequence", "0").code == 0


def test_the_same_again_is_the_same_bytes(run_dir: Path, kind: str, toy: Toy, tmp_path: Path) -> None:
    toy.ran("cache-teacher", tmp_path / "run", *options(kind))
    assert tree(run_dir / "cache") == tree(tmp_path / "run" / "cache")


def test_another_kind_is_refused(run_dir: Path, toy: Toy) -> None:
    refuse(toy.run("cache-teacher", run_dir), 3, "cache.kind", "topk")


def test_what_sampled_cannot_give_is_refused_before_any_work(
    run_dir: Path, kind: str, toy: Toy, tmp_path: Path
) -> None:
    root = f"cache.roots=[{run_dir}]"
    curriculum = options(kind, root, "train.temperature.start=3")
    subset = options(kind, root, "train.objective=subset")
    order = options(kind, root, "train.rank_weight=0.2")
    toy.ran("train-student", tmp_path / "routed", *options(kind, root, "train.router=trust"))
    if kind == "compact":
        toy.ran("train-student", tmp_path / "curriculum", *curriculum)
        toy.ran("train-student", tmp_path / "subset", *subset)
        toy.ran("train-student", tmp_path / "order", *order)
        return
    refuse(toy.run("train-student", tmp_path / "order", *order), 2, "train.rank_weight asks", "topk or compact")
    refuse(
        toy.run("train-student", tmp_path / "curriculum", *curriculum),
        2,
        "temperature 1",
        "train.temperature is 3 to 3",
    )
    refuse(toy.run("train-student", tmp_path / "subset", *subset), 2, "train.objective is subset", "sampled_tail")


@pytest.mark.parametrize("kind", ["topk", "compact"])
def test_a_cache_without_draws_refuses_the_objective_that_needs_them(kind: str, toy: Toy, tmp_path: Path) -> None:
    settings = [word for one in (f"cache.kind={kind}", "cache.num_draws=0") for word in ("--set", one)]
    told = " ".join(toy.ran("cache-teacher", tmp_path / "run", *settings).stderr.split())
    assert "train-student would refuse what this config asks of it." in told.partition("shards to do")[0]
    refuse(toy.run("train-student", tmp_path / "run", *settings), 2, "cache.num_draws: 0", "bucket")
    toy.ran("train-student", tmp_path / "run", *settings, "--set", "train.objective=bucket")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("cache.kind=compact", "cache.head_size=256"), ("at most 255",)),
        (("cache.head_mass=0.5",), ("cache.head_mass", "compact")),
        (("cache.kind=sampled",), ("cache.head_size", "sampled")),  # the toy's config names a head of 16
        (("cache.kind=sampled", "cache.head_size=256", "cache.precision=small"), ("cache.precision",)),
        (("cache.kind=sampled", "cache.head_size=256", "cache.draw_beta=0.7"), ("cache.draw_beta 1",)),
        (("cache.kind=bottomk",), ("topk", "compact", "sampled")),
    ],
)
def test_settings_that_a_kind_has_no_use_for(
    settings: tuple[str, ...], words: tuple[str, ...], toy: Toy, tmp_path: Path
) -> None:
    more = [word for setting in settings for word in ("--set", setting)]
    refuse(toy.run("cache-teacher", tmp_path / "run", *more), 2, *words)
