"""How fast the student learns from a cache on disk, beside the same student in other hands.

    train.vs_trainer      tokens a second over those of transformers' Trainer on labels
    train.vs_labels_only  over those of the same loop on labels only
    train.vs_online_kd    over those of plain PyTorch with the teacher in memory and whole logits
    train.data_wait_share part of its time that a training waits for the next step's records, read ahead meanwhile

Each ratio is the median over rounds of a ratio within one round. What is timed are whole optimizer steps: ours with the
wait for data that was read ahead. No side waits for the first batch of a round.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline import files
from pipeline.benches.online_kd import OnlineKD, online_step
from pipeline.benches.peak import peak_extra_bytes
from pipeline.benches.results import Result, measured
from pipeline.benches.rounds import alternate, median_ratio
from pipeline.benches.shapes import SHAPES, layout_of, make_shape, plan_of, random_sequences
from pipeline.cache import TeacherCache
from pipeline.cache.plan import PLAN_NAME, SEQUENCES_NAME
from pipeline.cache.sequence_file import write_sequences
from pipeline.cache.writer import CacheWriter
from pipeline.console import say, warn_once
from pipeline.data.sequences import TRAIN
from pipeline.distill.batching.batches import BatchReader
from pipeline.distill.batching.order import DataOrder
from pipeline.distill.learner import Learner
from pipeline.distill.settings import TrainSettings
from pipeline.distill.weighting.loss_weights import LossWeights
from pipeline.models.device import choose_dtype, environment
from pipeline.models.probe import usual_chunk
from pipeline.models.teacher import Teacher

TRAINER_GOAL, DATA_WAIT_GOAL = 0.97, 0.02
NO_ACCELERATE = (
    "bench train: transformers' Trainer needs accelerate, which is not installed, so train.vs_trainer is left out. "
    'Install it with: pip install "sad-pipeline[bench]"'
)
_LEARNING_RATE = 1e-4
_WARMUP = 1
_WAITING_STEPS = 4  # by which the wait for data is measured
_HERE = "pipeline.benches.train"


@dataclass(frozen=True, slots=True)
class TrainSizes:
    """What is trained, and for how long."""

    student: str = "smollm2-135m"
    """one of SHAPES"""
    teacher: str = "smollm2-360m"
    """of online distillation; one with the student's vocabulary"""
    batch_size: int = 4
    sequence_length: int = 512
    steps: int = 1
    """timed in each round"""
    rounds: int = 3


class OurLoop:
    """train-student's loop on a cache, a few steps at a time; with the teacher's records or on labels only."""

    def __init__(self, cache: TeacherCache, sizes: TrainSizes, device: torch.device) -> None:
        self.cache, self.sizes = cache, sizes
        steps = 1 + (_WARMUP + sizes.rounds) * sizes.steps * 2 + _WAITING_STEPS
        settings = TrainSettings(steps=steps, batch_size=sizes.batch_size, learning_rate=_LEARNING_RATE, warmup_steps=0)
        causal = make_shape(sizes.student, torch.float32, device)
        self.learner = Learner(causal, settings, steps, choose_dtype("float32", device))
        spans = [(span.first, span.count) for span in cache.plan.spans(TRAIN)]
        self._order = DataOrder(spans, settings.seed, settings.window_shards, sizes.batch_size)
        self._done, self.wait_seconds = 0, 0.0
        self._loss_weights: dict[float, LossWeights] = {}

    def run(self, kd_weight: float, steps: int | None = None) -> float:
        """Seconds of the steps of one round; of them, `wait_seconds` for data."""
        learner = self.learner
        learner.settings = learner.settings.model_copy(update={"kd_weight": kd_weight, "ce_weight": 1 - kd_weight})
        if kd_weight not in self._loss_weights:  # kept from round to round: a gate learns from the second step on
            self._loss_weights[kd_weight] = LossWeights(learner.settings, learner.num_steps, learner.device)
        learner.loss_weights = self._loss_weights[kd_weight]
        numbers = range(self._done, self._done + (steps or self.sizes.steps))
        reader = BatchReader(
            self.cache, self._order, numbers, self.sizes.batch_size, learner.device, with_records=kd_weight > 0
        )
        started, waited_before = 0.0, 0.0
        for batches in reader:
            if not started:
                started, waited_before = time.perf_counter(), reader.wait_seconds
            learner.learn(batches.step, batches, batches.num_scored)
            self._done += 1
        _wait(learner.device)
        self.wait_seconds = reader.wait_seconds - waited_before
        return time.perf_counter() - started


def bench_train(folder: Path, device: torch.device, sizes: TrainSizes) -> list[Result]:
    """All figures of a training; `folder` is used for a cache and emptied."""
    try:
        write_cache(folder, device, sizes)
        results = _speeds(folder, device, sizes) + _memory(folder, device, sizes)
    finally:
        files.remove_folder(folder)
    return results


def write_cache(folder: Path, device: torch.device, sizes: TrainSizes) -> None:
    """A sealed cache of random sequences, scored by a model with hardly a body: its records cost what any do."""
    vocab_size = SHAPES[sizes.student]["vocab_size"]
    scorer = "thin" if vocab_size == SHAPES["thin"]["vocab_size"] else sizes.student
    chunk = usual_chunk(vocab_size, device.type == "cuda")
    teacher = Teacher(make_shape(scorer, torch.float32, device), layout_of(vocab_size), 0, sizes.batch_size, chunk)
    num_train = sizes.batch_size * max(2, sizes.steps)
    sequences = random_sequences(num_train, 1, sizes.sequence_length, vocab_size)
    say(f"bench train: a cache of {sequences.loss_mask.size:,} tokens is made in {folder}")
    digest = write_sequences(folder / SEQUENCES_NAME, sequences)
    plan = plan_of(teacher, sequences, digest.xxh3_128)
    plan.save(folder / PLAN_NAME)
    writer = CacheWriter(folder, plan, sequences, environment(device))
    for span in plan.shards:
        writer.write(span, teacher.score(sequences, np.arange(span.first, span.stop)))


def _speeds(folder: Path, device: torch.device, sizes: TrainSizes) -> list[Result]:
    """Every side's tokens a second, and the ratios."""
    seconds: dict[str, list[float]] = {}

    def timed(name: str, run: Callable[[], float]) -> Callable[[], None]:
        seconds[name] = []
        return lambda: seconds[name].append(run())

    with TeacherCache.open(folder) as cache:
        ours = OurLoop(cache, sizes, device)
        kd_weight = ours.learner.settings.kd_weight
        online = OnlineKD.beside(ours.learner, make_shape(sizes.teacher, torch.float32, device))
        rows = cache.sequences.select(slice(sizes.batch_size))
        sides = {
            "ours": timed("ours", lambda: ours.run(kd_weight)),
            "labels_only": timed("labels_only", lambda: ours.run(0.0)),
            "online_kd": timed("online_kd", lambda: _timed_steps(online, rows.input_ids, sizes.steps)),
        }
        if importlib.util.find_spec("accelerate") is None:
            warn_once(NO_ACCELERATE)
        else:
            from pipeline.benches.trainer import TrainerLoop

            trainer = TrainerLoop(
                make_shape(sizes.student, torch.float32, device).model,
                rows.input_ids,
                sizes.steps,
                _LEARNING_RATE,
                folder / "trainer",
                device,
            )
            sides["trainer"] = timed("trainer", trainer.run)
        alternate(sides, sizes.rounds, _WARMUP)
        spent = ours.run(kd_weight, _WAITING_STEPS)
    counted = {name: each[_WARMUP:] for name, each in seconds.items()}
    waiting = measured("train.data_wait_share", ours.wait_seconds / spent, at_most=DATA_WAIT_GOAL)
    return [*_ratios(counted), waiting, *_paces(counted, sizes)]


def _ratios(seconds: dict[str, list[float]]) -> list[Result]:
    """How many times as fast ours is as each of the others."""
    goals = {"trainer": TRAINER_GOAL}
    return [
        measured(f"train.vs_{name}", median_ratio(each, seconds["ours"]), at_least=goals.get(name))
        for name, each in seconds.items()
        if name != "ours"
    ]


def _paces(seconds: dict[str, list[float]], sizes: TrainSizes) -> list[Result]:
    tokens = sizes.steps * sizes.batch_size * sizes.sequence_length
    return [
        measured(f"train.tokens_per_second.{name}", tokens / float(np.median(each)), "tokens/s")
        for name, each in seconds.items()
    ]


def _timed_steps(online: OnlineKD, input_ids: np.ndarray, steps: int) -> float:
    device = online.student.device
    ids = torch.from_numpy(input_ids.astype(np.int64)).to(device)
    started = time.perf_counter()
    for _ in range(steps):
        online_step(online, ids)
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ------------------------------------------------------------------ memory


def _memory(folder: Path, device: torch.device, sizes: TrainSizes) -> list[Result]:
    """The most memory a training takes, models and optimizer included, each way in a process of its own."""
    peaks = {
        name: peak_extra_bytes(
            _HERE,
            f"{name}_from_nothing",
            device=device.type,
            folder=str(folder),
            student=sizes.student,
            teacher=sizes.teacher,
            batch_size=sizes.batch_size,
        )
        for name in ("ours", "online_kd")
    }
    sides = [measured(f"train.memory_gb.{name}", peak / 1e9, "GB") for name, peak in peaks.items()]
    return [measured("train.memory_vs_online_kd", peaks["ours"] / peaks["online_kd"]), *sides]


def ours_from_nothing(device: str, folder: str, student: str, teacher: str, batch_size: int) -> Callable[[], object]:
    """Work: make the student and do two steps from the cache in `folder`; the second has the optimizer's moments."""
    place = torch.device(device)

    def work() -> object:
        with TeacherCache.open(folder) as cache:
            sizes = TrainSizes(student, teacher, batch_size, cache.plan.sequence_length, steps=2)
            loop = OurLoop(cache, sizes, place)
            loop.run(loop.learner.settings.kd_weight)
            return loop

    return work


def online_kd_from_nothing(
    device: str, folder: str, student: str, teacher: str, batch_size: int
) -> Callable[[], object]:
    """Work: make both models and do two steps on the same sequences."""
    place = torch.device(device)

    def work() -> object:
        with TeacherCache.open(folder) as cache:
            input_ids = cache.sequences.select(slice(batch_size)).input_ids
        learner = Learner(make_shape(student, torch.float32, place), TrainSettings(steps=2), 2, torch.float32)
        online = OnlineKD.beside(learner, make_shape(teacher, torch.float32, place))
        _timed_steps(online, input_ids, steps=2)
        return online

    return work
