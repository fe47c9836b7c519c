"""bench quality: which way of learning helps, beside full distillation and labels only, and what a cache loses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.benches.quality.arms import Arm, arms_of, chosen_arms
from pipeline.benches.quality.figures import results_of
from pipeline.benches.quality.gradients import whole_gradient
from pipeline.benches.quality.plan import RATE_FACTORS, Study, Trial, steps, trainings
from pipeline.benches.quality.price import expected_seconds
from pipeline.benches.results import Result
from pipeline.cache import TeacherCache
from pipeline.console import Progress, format_seconds, say
from pipeline.data.sequences import TRAIN
from pipeline.distill.batches import RecordSource
from pipeline.distill.gradient_angle import angle_between
from pipeline.distill.lessons import spread
from pipeline.distill.live_records import LiveRecords, whole_teacher
from pipeline.errors import ConfigError, NumericsError
from pipeline.evaluation.study.findings import FULL, LABELS, Finding
from pipeline.evaluation.study.picture import draw_pictures
from pipeline.evaluation.study.results import RESULTS_NAME, StudyResult, save_results
from pipeline.models import CausalModel
from pipeline.models.device import choose_device
from pipeline.models.student import load_student
from pipeline.runs import Session
from stages.config import RunConfig
from stages.prepare_bench import changed
from stages.quality_trainings import (
    Ground,
    arm_config,
    is_kept,
    load_trained,
    measure,
    setting_of,
    train,
    trial_config,
)

MANY = 4
"""times the steps of the first study, in the one with many"""
_MANY_RATE = 0.5**0.5  # of the first study's middle rate: the more steps, the lower the best one
LARGE_VOCAB, LARGE_HEAD = 49_152, 256
_CONFIRMED = ("labels", "full", "default", "compact", "sampled")
_CONFIRMING_SEEDS = 3
_GRADIENT_SEQUENCES = 32


@dataclass(frozen=True, slots=True)
class QualityResult:
    """Findings of each study by its title, and the figures of all."""

    tables: dict[str, Mapping[str, Finding]]
    results: list[Result]


def run(
    config: RunConfig, session: Session, short: bool, names: Sequence[str] | None, num_seeds: int | None
) -> QualityResult:
    """Do the trainings that are not done yet, and set them side by side; run again after any stop to go on.

    PausedError where it is paused.
    """
    root = session.run.quality
    studies = studies_of(config, short, names, num_seeds)
    every = [study for group in studies.values() for study in group]
    num_steps = steps(every)
    seconds = expected_seconds(every, config.train.batch_size * config.data.sequence_length)
    say(f"bench quality: {trainings(every)} trainings, {num_steps:,} steps: about {format_seconds(seconds)} on 2 cores")
    # Teachers and first caches come before the count of trainings begins: its rate is of trainings alone.
    grounds = {name: Ground.lay(root / name, _config_of(config, name), session) for name in studies}
    told, results = [], []
    with Progress("bench quality", num_steps, "steps") as progress:
        for name, group in studies.items():
            for study in group:
                findings = _findings(grounds[name], study, progress)
                told.append(StudyResult(_title(grounds[name], study), setting_of(grounds[name], study.steps), findings))
                results += results_of(study.name, findings)
            grounds[name].close()
    path = root / RESULTS_NAME
    save_results(path, told, {result.name: result.value for result in results})
    drawn = draw_pictures(path)
    say(f"bench quality: figures in {path}" + (f", pictures in {', '.join(map(str, drawn))}" if drawn else ""))
    return QualityResult({study.title: study.findings for study in told}, results)


# ------------------------------------------------------------------ what there is to do


def studies_of(
    config: RunConfig, short: bool, names: Sequence[str] | None, num_seeds: int | None
) -> dict[str, list[Study]]:
    """Name of a ground -> its studies. Few steps; and of a long study many, and the main arms at a large vocabulary."""
    if config.train.steps is None:
        raise ConfigError("bench quality: expected train.steps, of the study with few steps, found train.epochs")
    vocab_size = config.demo.vocab_size if config.demo is not None else 0
    ground = "own" if vocab_size == 0 else f"v{vocab_size}"
    arms = chosen_arms(arms_of(config.cache.head_size, vocab_size), names, short)
    for arm in arms:  # what no config may say is told before any training
        for changes in arm.candidates.values():
            arm_config(config, arm, changes)
    few = Study("", config.train.steps, config.train.learning_rate, vocab_size, arms, num_seeds)
    if short:
        return {ground: [few]}
    many = replace(few, name="many", steps=MANY * few.steps, learning_rate=_MANY_RATE * few.learning_rate)
    studies = {ground: [few, many]}
    if config.demo is not None and vocab_size < LARGE_VOCAB and names is None:
        arms = tuple(arm for arm in arms_of(LARGE_HEAD, LARGE_VOCAB) if arm.name in _CONFIRMED)
        seeds = num_seeds or _CONFIRMING_SEEDS
        large = replace(few, name=f"v{LARGE_VOCAB}", vocab_size=LARGE_VOCAB, arms=arms, num_seeds=seeds)
        studies[large.name] = [large]
    return studies


def _config_of(config: RunConfig, ground: str) -> RunConfig:
    """The config of a ground: as it is, or with the large vocabulary and its head."""
    if config.demo is None or ground != f"v{LARGE_VOCAB}" or config.demo.vocab_size == LARGE_VOCAB:
        return config
    return changed(config, demo={"vocab_size": LARGE_VOCAB}, cache={"head_size": LARGE_HEAD})


def _title(ground: Ground, study: Study) -> str:
    layout = ground.cache.plan.layout
    return f"{study.steps:,} steps, V = {layout.vocab_size:,}, K = {layout.head_size}"


# ------------------------------------------------------------------ doing it


def _findings(ground: Ground, study: Study, progress: Progress) -> dict[str, Finding]:
    """Every arm of a study: searched on seed 0, then trained with its other seeds, then measured."""
    best = {arm.name: _best(ground, study, arm, progress) for arm in study.arms}
    findings = {}
    for arm in study.arms:
        trials = [replace(best[arm.name], seed=seed) for seed in study.seeds(arm)]
        for trial in trials[1:]:
            if not math.isfinite(_counted(ground, trial, progress)):
                raise NumericsError(f"bench quality: {trial.folder}: diverged, at the rate that was best for seed 0")
        findings[arm.name] = Finding(
            arm=arm.name,
            candidate=trials[0].candidate,
            learning_rate=trials[0].learning_rate,
            at_an_edge=trials[0].learning_rate != study.learning_rate,
            students={trial.seed: measure(ground, trial) for trial in trials},
            bytes_per_token=_bytes_per_token(ground, arm),
            changes=arm.changes_of(trials[0].candidate),
        )
    return _with_gradients(ground, findings, best)


def _best(ground: Ground, study: Study, arm: Arm, progress: Progress) -> Trial:
    """The candidate of an arm that is best at the middle rate, at the best of three rates; both on seed 0."""
    scores = {trial: _counted(ground, trial, progress) for trial in study.first_trials(arm)}
    first = min(scores, key=lambda trial: scores[trial])
    for factor in RATE_FACTORS[1:]:
        trial = study.trial(arm, first.candidate, factor, seed=0)
        scores[trial] = _counted(ground, trial, progress)
    best = min(scores, key=lambda trial: scores[trial])
    if not math.isfinite(scores[best]):
        raise NumericsError(
            f"bench quality: every training of the arm {arm.name} diverged. Lower train.learning_rate, in another "
            "run directory (--run-dir)."
        )
    return best


def _counted(ground: Ground, trial: Trial, progress: Progress) -> float:
    """Train, and count it: what was done before this start is no work of it."""
    if is_kept(ground, trial):
        progress.total -= trial.steps
        return train(ground, trial)
    ce_nats = train(ground, trial)
    progress.advance(trial.steps, note=f"{trial.folder}: {ce_nats:.4f}")
    return ce_nats


def _bytes_per_token(ground: Ground, arm: Arm) -> float | None:
    if arm.live or arm.name == LABELS:
        return None
    return float(ground.cache_of(arm).statistics["bytes_per_scored_position"])


# ------------------------------------------------------------------ gradients


def _with_gradients(ground: Ground, findings: dict[str, Finding], best: dict[str, Trial]) -> dict[str, Finding]:
    """Each arm's gradient beside full distillation's, at three students: untrained, and as two arms left theirs."""
    gradients: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in findings}
    for place, student, at_end in _students(ground, best):
        full = _gradient(ground, best[FULL], student, at_end)
        for name, trial in best.items():
            if name != FULL:
                found = angle_between(_gradient(ground, trial, student, at_end), full)
                gradients[name][place] = (found.degrees, found.norm_ratio)
    return {name: replace(finding, gradients=gradients[name]) for name, finding in findings.items()}


def _students(ground: Ground, best: dict[str, Trial]) -> list[tuple[str, CausalModel, bool]]:
    """Name, student, and whether schedules stand at their end there."""
    device = choose_device("cpu")
    return [
        ("start", load_student(ground.config.student, ground.tokenizer, device), False),
        ("labels", load_trained(ground, best[LABELS]), True),
        ("full", load_trained(ground, best[FULL]), True),
    ]


def _gradient(ground: Ground, trial: Trial, student: CausalModel, at_end: bool) -> Any:
    config, cache = trial_config(ground, trial), ground.cache_of(trial.arm)
    source: RecordSource = cache
    if trial.arm.live:
        teacher = whole_teacher(ground.teacher, config.train.batch_size, config.train.chunk_positions)
        source = LiveRecords(teacher, cache.sequences)
    step = trial.steps - 1 if at_end else 0
    return whole_gradient(student, config.train, trial.steps, step, source, _training_sequences(cache))


def _training_sequences(cache: TeacherCache) -> np.ndarray:
    spans = [np.arange(span.first, span.stop) for span in cache.sealed if span.split == TRAIN]
    return spread(np.concatenate(spans), _GRADIENT_SEQUENCES)
