"""bench quality for real and at toy size: choices, pairing, a study that is stopped and goes on, refusals."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.benches.quality import plan
from pipeline.benches.quality.arms import FULL_CANDIDATES
from pipeline.benches.quality.plan import MOST_BEYOND, Trial
from pipeline.cache import TeacherCache
from pipeline.evaluation.study.results import load_results
from pipeline.pause import PauseRequest
from stages import bench_quality
from stages.quality_trainings import Ground, train
from tests.stages.toys import REPOSITORY, Ended, copy, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the memory of the machine is told on Linux"),
]

TINY = (
    "{model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, "
    "max_position_embeddings: 64}"
)
SETTINGS = {
    "data.max_documents": "24",
    "data.validation_fraction": "0.2",
    "data.max_tokens": "6000",
    "data.sequence_length": "64",
    "cache.head_size": "16",
    "cache.shard_positions": "2000",
    "cache.batch_size": "8",
    "student.config": TINY,
    "train.steps": "3",
    "train.warmup_steps": "1",
    "train.batch_size": "2",
    "train.validation_sequences": "4",
    "eval.max_sequences": "4",
    "demo.vocab_size": "320",
    "demo.teacher": TINY,
    "demo.teacher_steps": "4",
    "demo.teacher_batch_size": "4",
}
ARMS = ["--arms", "default,compact,k4of320,tau2", "--seeds", "2"]


def quality(run_dir: Path, *more: str, **changes: str) -> Ended:
    """The command on a toy study."""
    return run("bench", "quality", *words(run_dir, **changes), *more)


def words(run_dir: Path, **changes: str) -> list[str]:
    """Where and what a toy study is, on the command line."""
    settings = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    return ["--run-dir", str(run_dir), *(word for pair in settings.items() for word in ("--set", "=".join(pair)))]


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A study that went straight through: its folder, and what --json printed."""
    run_dir = tmp_path_factory.mktemp("study") / "run"
    ended = quality(run_dir, *ARMS, "--json")
    assert ended.code == 0, ended.stderr
    # Two beginnings, three rates with two seeds for each of six arms, and nine more that full may choose.
    assert "47 trainings" in ended.stderr
    return run_dir / "quality", json.loads(ended.stdout)


Study = tuple[Path, dict[str, Any]]


def test_figures_of_every_arm(study: Study) -> None:
    found = {result["name"]: result for result in study[1]["results"]}
    assert all(math.isfinite(result["value"]) for result in found.values())
    for arm in ("labels", "full", "default", "compact", "k4of320", "tau2"):
        assert found[f"quality.{arm}.kl_nats"]["value"] > 0
        assert found[f"quality.{arm}.seeds"]["value"] == 2
    for student in ("start", "labels", "full"):
        assert 0 < found[f"quality.default.gradient_angle.{student}"]["value"] < 180
        assert found[f"quality.labels.gradient_norm.{student}"]["value"] > 0
    sizes = [found[f"quality.{arm}.bytes_per_token"]["value"] for arm in ("default", "k4of320")]
    assert sizes[0] > sizes[1] > 0
    assert "quality.full.bytes_per_token" not in found
    assert found["quality.default.gain_share"]["goal"] == ">= 0.99"


def test_each_arm_is_at_the_rate_that_is_best_for_its_seeds(study: Study) -> None:
    root, _ = study
    [described] = read(root / "quality.json")["studies"]
    trainings = root / "v320" / "trainings"
    for finding in described["findings"]:
        prefix = f"{finding['candidate']}-" if finding["candidate"] else ""
        rates = {
            float(path.name.partition("-rate")[2].rpartition("-seed")[0]): [
                read(path.with_name(f"{path.name[:-1]}{seed}") / "chosen.json")["validation_ce_nats"] for seed in (0, 1)
            ]
            for path in (trainings / finding["arm"]).glob(f"{prefix}3steps-rate*-seed0")
        }
        steps = [step_of(rate) for rate in sorted(rates)]
        assert steps == list(range(steps[0], steps[-1] + 1))
        assert {-1, 0, 1} <= set(steps)
        best = min(rates, key=lambda rate: sum(rates[rate]))
        assert finding["learning_rate"] == pytest.approx(best, rel=1e-5)
        assert finding["at_an_edge"] == (best in (min(rates), max(rates)))
        assert not finding["at_an_edge"] or len(steps) == 3 + MOST_BEYOND


def step_of(rate: float) -> int:
    """From the study's middle rate, a factor of the square root of 2 each."""
    return round(2 * math.log2(rate / 4e-3))


def test_a_rate_that_seed_0_alone_prefers_is_not_taken(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = copy(study[0].parent, tmp_path / "run")

    def shaped(ground: Ground, trial: Trial) -> float:
        ce_nats, step = train(ground, trial), step_of(trial.learning_rate)
        return ce_nats if trial.arm.name != "tau2" else (abs(step), 3 * abs(step - 1))[trial.seed]

    monkeypatch.setattr(bench_quality, "train", shaped)
    assert quality(run_dir, *ARMS).code == 0
    found = tau2_of(run_dir)
    assert (step_of(found["learning_rate"]), found["at_an_edge"]) == (1, False)


def test_a_rate_that_another_seed_does_not_survive_is_passed_over(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = copy(study[0].parent, tmp_path / "run")
    before = tau2_of(run_dir)
    scores: dict[float, float] = {}

    def fragile(ground: Ground, trial: Trial) -> float:
        ce_nats = train(ground, trial)
        if trial.arm.name != "tau2":
            return ce_nats
        if trial.seed == 0:
            scores[trial.learning_rate] = ce_nats
        at_best = trial.learning_rate == min(scores, key=lambda rate: scores[rate])
        return math.inf if trial.seed == 1 and at_best else ce_nats

    monkeypatch.setattr(bench_quality, "train", fragile)
    monkeypatch.setattr(plan, "CHOOSING_SEEDS", 1)  # so that seed 1 chooses nothing
    ended = quality(run_dir, *ARMS)
    assert ended.code == 0, ended.stderr
    assert "another seed diverged at this rate" in ended.stderr
    after = tau2_of(run_dir)
    assert after["learning_rate"] == pytest.approx(sorted(scores, key=lambda rate: scores[rate])[1])
    assert after["students"].keys() == before["students"].keys()


def tau2_of(run_dir: Path) -> dict[str, Any]:
    """What a study found of that arm."""
    [described] = read(run_dir / "quality" / "quality.json")["studies"]
    [found] = [finding for finding in described["findings"] if finding["arm"] == "tau2"]
    return dict(found)


def test_full_distillation_is_at_its_best_temperature_and_weights(study: Study) -> None:
    root, _ = study
    [described] = read(root / "quality.json")["studies"]
    [full] = [finding for finding in described["findings"] if finding["arm"] == "full"]
    tried = {
        path.name.partition("-")[0]: read(path / "chosen.json")["validation_ce_nats"]
        for path in (root / "v320" / "trainings" / "full").glob("*-rate0.004-seed0")
    }
    assert tried.keys() == FULL_CANDIDATES.keys()
    assert full["candidate"] == min(tried, key=lambda name: tried[name])


def test_arms_are_paired(study: Study) -> None:
    root, _ = study
    for seed in (0, 1):
        trained = [read(path) for path in (root / "v320" / "trainings").glob(f"*/*-seed{seed}/chosen.json")]
        # All but one in the same order; that one, before all others, in an order of its own.
        assert sorted({each["identity"]["train"]["seed"] for each in trained}) == [seed, 1_000_000 + seed]
        # One begins with random weights of this seed, and all others with what that one left.
        students = [each["identity"]["student"] for each in trained]
        assert [student["seed"] for student in students if "seed" in student] == [seed]
        assert len({json.dumps(student) for student in students if "seed" not in student}) == 1
    measured = [read(path)["sequences"] for path in (root / "v320" / "trainings").glob("*/*/measured.json")]
    assert len(measured) == 12
    assert all(sequences == measured[0] for sequences in measured)


def test_done_again_it_trains_nothing_and_says_the_same(study: Study) -> None:
    root, printed = study
    before = {path: path.stat().st_mtime_ns for path in root.rglob("chosen.json")}
    ended = quality(root.parent, *ARMS, "--json")
    assert json.loads(ended.stdout) == printed
    assert {path: path.stat().st_mtime_ns for path in root.rglob("chosen.json")} == before


def test_stopped_again_and_again_it_says_the_same(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def now_and_then(self: PauseRequest) -> str | None:
        nonlocal calls
        calls += 1
        return "it was asked for" if calls % 11 == 0 else None

    monkeypatch.setattr(PauseRequest, "reason", now_and_then)
    stops, ended = 0, quality(tmp_path, *ARMS, "--json")
    while not ended.stdout:
        assert ended.code == 0, ended.stderr
        assert "The same command goes on from there" in ended.stderr
        stops += 1
        ended = quality(tmp_path, *ARMS, "--json")
    assert stops > 8
    assert json.loads(ended.stdout) == study[1]
    assert (tmp_path / "quality" / "quality.json").read_bytes() == (study[0] / "quality.json").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_several_at_a_time_stopped_from_outside_say_the_same(
    number: signal.Signals, study: Study, tmp_path: Path
) -> None:
    arguments = ["bench", "quality", *words(tmp_path), *ARMS, "--json", "--workers", "2"]
    command = [sys.executable, "-m", "stages.cli", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, start_new_session=True, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while num_done(tmp_path) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does: to all of them
        else:
            process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert 3 <= num_done(tmp_path) < 31
    if number == signal.SIGINT:
        assert (process.returncode, "The same command goes on from there" in said) == (0, True), said
    wait_until_gone(process.pid)
    ended = run(*arguments)
    assert ended.code == 0, ended.stderr
    assert json.loads(ended.stdout) == study[1]
    assert (tmp_path / "quality" / "quality.json").read_bytes() == (study[0] / "quality.json").read_bytes()


def num_done(run_dir: Path) -> int:
    """Trainings that are done."""
    return len(list(run_dir.glob("quality/v320/trainings/*/*/chosen.json")))


def wait_until_gone(group: int) -> None:
    """Until no process of a group is left: they end with the first one."""
    deadline = time.monotonic() + 30
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline, "processes stayed behind"
        time.sleep(0.05)


def test_a_picture_of_bytes_and_quality(study: Study) -> None:
    root = ElementTree.parse(study[0] / "quality-0.svg").getroot()
    named = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"default", "compact", "k4of320", "bytes a cached token (3 steps, V = 320, K = 16)"} <= named
    assert "tau2" not in named


def test_the_report_of_a_study_tells_it(study: Study, tmp_path: Path) -> None:
    root, printed = study
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    ended = run("report", str(root.parent))
    assert ended.code == 0, ended.stderr
    page = (root.parent / "report" / "report.html").read_text(encoding="utf-8")
    [told] = load_results(root / "quality.json")
    found = {result["name"]: result["value"] for result in printed["results"]}
    share = f"{100 * found['quality.compact.gain_share']:,.1f}%".replace("-", "\N{MINUS SIGN}")
    for words in (
        "Bytes against quality",
        "train.temperature: 2",
        "cache.head_size: 4",
        share,
        "3 steps, V = 320, K = 16",
    ):
        assert words in page
    assert (told.setting.teacher, told.setting.text) == (None, "stdlib")
    assert told.setting.num_sequences == 4
    assert 0 < told.setting.num_positions <= 4 * 64
    assert 0 < told.setting.student_parameters < told.setting.teacher_parameters * 2
    assert told.setting.teacher_ce_nats == pytest.approx(_teacher_ce(root), rel=1e-6)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before


def _teacher_ce(root: Path) -> float:
    """By whole sequences of the default's cache, as each training's measured.json names them."""
    sequences = read(next((root / "v320" / "trainings").glob("*/*/measured.json")))["sequences"]
    with TeacherCache.open(root / "v320" / "caches" / "default" / "cache") as cache:
        parts = [cache[index] for index in sequences]
        nats = [-part.records.label_logprobs_T[part.loss_mask_T].astype(np.float64) for part in parts]
    return float(np.concatenate(nats).mean())


def test_kept_trainings_of_other_settings_are_refused(study: Study) -> None:
    ended = quality(study[0].parent, *ARMS, train__clip_norm="0.5")
    assert ended.code == 3
    assert "train.clip_norm: 1.0 -> 0.5" in ended.stderr
    assert "--run-dir" in ended.stderr


def test_what_cannot_be_studied_is_refused_before_any_work(tmp_path: Path) -> None:
    ended = quality(tmp_path, "--arms", "tau9")
    assert (ended.code, "no arm is called tau9" in ended.stderr) == (2, True)
    assert not (tmp_path / "quality").exists()
    ended = quality(tmp_path, *ARMS, train__validation_sequences="1000")
    assert (ended.code, "none is left to measure on" in ended.stderr.replace("\n", " ")) == (2, True)
