"""Real commands killed at random moments, again and again, and ended by signals; what comes of them is the same bytes.

Moments are of time, not of operations: whatever a process does then, it is ended in the middle of it.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.reliability import kills
from tests.reliability.kills import CAPTURE, CHECKPOINT_EVERY, TRAINING, Job
from tests.reliability.tally import LONG, Tally
from tests.stages.toys import REPOSITORY, Toy, copy, make_toy, start, status, temporaries, wait

MOST_KILLS = 5
CHAINS_A_CHUNK, CHUNKS = (10, 3) if LONG else (3, 1)
PAUSES_A_CHUNK, PAUSE_CHUNKS = (10, 2) if LONG else (2, 1)
PROMPT_A_CHUNK, PROMPT_CHUNKS = (12, 2) if LONG else (2, 1)
MOST_PAUSE_SECONDS = {CAPTURE: 5.0, TRAINING: 10.0}  # at the 99th percentile
AT_ONCE_SECONDS = 1.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(scope="module")
def jobs(toy: Toy, cached: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Job]:
    """The two commands; each is first run undisturbed, once it is asked for."""
    made: dict[str, Job] = {}

    def job(stage: str) -> Job:
        if stage not in made:
            more = ["--set", f"cache.roots=[{cached}]"] if stage == TRAINING else []
            made[stage] = kills.undisturbed(toy, stage, tmp_path_factory.mktemp("undisturbed"), *more)
        return made[stage]

    return job


# ------------------------------------------------------------------ killed


def chain_of_kills(job: Job, run_dir: Path, random: Random) -> list[str]:
    """Kill and start again until it ends or MOST_KILLS are done, then let it end; where each kill came."""
    places: list[str] = []
    sealed, kept = set[str](), 0
    while len(places) < MOST_KILLS and kills.killed(job, run_dir, random.uniform(0.02, 0.75) * job.seconds):
        places.append(kills.place(job.stage, run_dir))
        assert sealed <= kills.sealed_shards(run_dir), "a sealed shard is gone"
        assert len(kills.unsealed_shards(run_dir)) <= 1, "more than one shard was under way"
        assert kept <= kills.steps_kept(run_dir), "a checkpoint is gone"
        sealed, kept = kills.sealed_shards(run_dir), kills.steps_kept(run_dir)
        lost = kills.steps_logged(run_dir) - kept
        assert lost <= CHECKPOINT_EVERY, f"{lost} steps are lost"
    said = job.finish(run_dir)
    assert not kept or f"continuing after step {kept}," in said or "nothing left to do" in said
    return places


@pytest.mark.parametrize("stage", [CAPTURE, TRAINING])
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_chains_of_kills(chunk: int, stage: str, jobs: Callable[[str], Job], tmp_path: Path, tally: Tally) -> None:
    for seed in tally.seeds(chunk, CHAINS_A_CHUNK):
        try:
            places = chain_of_kills(jobs(stage), tmp_path / f"run-{seed}", Random(seed))
        except (AssertionError, OSError, ValueError) as error:
            raise AssertionError(f"{stage}, the chain of Random({seed}): {error}") from error
        if len(places) > 1:  # a chain; in others the command was quicker than the kills
            tally.point(f"{stage} last killed {places[-1]}")


# ------------------------------------------------------------------ paused


@pytest.mark.parametrize("stage", [CAPTURE, TRAINING])
@pytest.mark.parametrize("chunk", range(PAUSE_CHUNKS))
def test_a_signal_at_any_moment_pauses_and_changes_nothing(
    chunk: int, stage: str, jobs: Callable[[str], Job], tmp_path: Path, tally: Tally
) -> None:
    job = jobs(stage)
    for seed in tally.seeds(chunk, PAUSES_A_CHUNK):
        run_dir, number = tmp_path / f"run-{seed}", SIGNALS[tally.points % 2]
        again = f"{stage}, {number.name} of Random({seed})"
        code, _ = kills.signalled(job, run_dir, Random(seed).uniform(0, 0.6) * job.seconds, number)
        if status(run_dir)["state"] != "complete":
            assert (code, status(run_dir)["state"]) == (0, "paused"), f"{again}: {status(run_dir)}"
            assert f"{number.name} was received" in status(run_dir)["message"], again
            assert temporaries(run_dir) == [], again
            if stage == TRAINING:
                assert kills.steps_logged(run_dir) == kills.steps_kept(run_dir), f"{again}: a step was lost"
            assert not kills.unsealed_shards(run_dir), again
            tally.point(f"{stage} paused by {number.name}")
        job.finish(run_dir, paused=True)


@pytest.mark.parametrize("stage", [CAPTURE, TRAINING])
@pytest.mark.parametrize("chunk", range(PAUSE_CHUNKS))
def test_a_second_signal_leaves_at_once(
    chunk: int, stage: str, jobs: Callable[[str], Job], tmp_path: Path, tally: Tally
) -> None:
    job = jobs(stage)
    for seed in tally.seeds(chunk, PAUSES_A_CHUNK):
        run_dir, both = tmp_path / f"run-{seed}", SIGNALS[:: 1 - 2 * (seed % 2)]
        again = f"{stage}, {both} of Random({seed})"
        code, seconds = kills.signalled(job, run_dir, Random(seed).uniform(0, 0.6) * job.seconds, *both)
        if code != 0:
            assert code in {128 + number for number in both}, again
            assert seconds < AT_ONCE_SECONDS, f"{again}: took {seconds:.2f} s"
            assert status(run_dir)["state"] == "running", again
            tally.point(f"{stage} left by {both[1].name}")
            tally.measure(f"{stage} left after a second signal", seconds)
        job.finish(run_dir)


# ------------------------------------------------------------------ paused soon, in the middle of much work


@pytest.fixture(scope="module")
def long_work(toy: Toy, cached: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Job, Path]]:
    """Commands with much more to do than a pause may take, and the run directory each of them is begun on."""
    made: dict[str, tuple[Job, Path]] = {}

    def work(stage: str) -> tuple[Job, Path]:
        if stage not in made:
            folder = tmp_path_factory.mktemp("long")
            made[stage] = _long_capture(folder) if stage == CAPTURE else _long_training(folder, toy, cached)
        return made[stage]

    return work


def _long_capture(folder: Path) -> tuple[Job, Path]:
    """One shard of some minutes, planned."""
    toy = make_toy(folder / "toy")
    sources = sorted((REPOSITORY / "pipeline").rglob("*.py"))
    for number, path in enumerate(sources):
        (toy.texts / f"source-{number}.txt").write_bytes(path.read_bytes())
    job = Job(toy, CAPTURE, ("--set", "cache.shard_positions=4000000", "--set", "cache.batch_size=4"), 3.0, {})
    process = start(job.arguments(folder / "run"), folder / "log")
    while not (folder / "run" / "cache" / "plan.json").is_file() and process.is_alive():
        process.join(0.02)
    process.kill()
    wait(process)
    (folder / "run" / "status.json").unlink()
    return job, folder / "run"


def _long_training(folder: Path, toy: Toy, cached: Path) -> tuple[Job, Path]:
    """Steps for some minutes, and no checkpoint among them."""
    wanted = [f"cache.roots=[{cached}]", "train.steps=20000", "train.warmup_steps=0", "train.log_every=1000"]
    wanted += ["train.checkpoint_every=20000", "train.evaluate_every=20000"]
    (folder / "run").mkdir()
    return Job(toy, TRAINING, tuple(word for setting in wanted for word in ("--set", setting)), 3.0, {}), folder / "run"


@pytest.mark.parametrize("stage", [CAPTURE, TRAINING])
@pytest.mark.parametrize("chunk", range(PROMPT_CHUNKS))
def test_a_pause_comes_soon(
    chunk: int, stage: str, long_work: Callable[[str], tuple[Job, Path]], tmp_path: Path, tally: Tally
) -> None:
    (job, begun), took = long_work(stage), []
    for seed in range(1000 * chunk, 1000 * chunk + PROMPT_A_CHUNK):
        run_dir, number = copy(begun, tmp_path / f"run-{seed}"), SIGNALS[seed % 2]
        code, seconds = kills.signalled(job, run_dir, Random(seed).uniform(0, job.seconds), number)
        left = status(run_dir)
        assert (code, left["state"]) == (0, "paused"), f"{stage}, {number.name} of Random({seed}): {left}"
        assert temporaries(run_dir) == []
        took.append(seconds)
        tally.measure(f"{stage} paused", seconds)
        tally.point(f"{stage} with much to do paused by {number.name}")
    assert tally.points == PROMPT_A_CHUNK
    slow = sorted(took)[math.ceil(0.99 * len(took)) - 1]
    assert slow < MOST_PAUSE_SECONDS[stage], f"{stage}, seeds from {1000 * chunk}: {took}"
