"""bench quality: which way of learning helps, beside full distillation and labels only, and what a cache loses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.benches.gradient_angle import angle_between
from pipeline.benches.quality.arms import Arm, arms_of, chosen_arms
from pipeline.benches.quality.figures import results_of
from pipeline.benches.quality.gradients import whole_gradient
from pipeline.benches.quality.plan import Study, Trial, beginnings, is_at_an_edge, steps, trainings
from pipeline.benches.quality.price import expected_seconds
from pipeline.benches.quality.search import best_of_each, rate_scores
from pipeline.benches.results import Result
from pipeline.cache import TeacherCache
from pipeline.config import changed
from pipeline.console import Progress, format_seconds, say, warn_once
from pipeline.data.sequences import TRAIN
from pipeline.distill.batching.batches import RecordSource
from pipeline.distill.batching.lessons import spread
from pipeline.distill.batching.live_records import LiveRecords, whole_teacher
from pipeline.errors import ConfigError, NumericsError
from pipeline.evaluation.study.findings import FULL, LABELS, Finding
from pipeline.evaluation.study.picture import draw_pictures
from pipeline.evaluation.study.results import RESULTS_NAME, StudyResult, save_results
from pipeline.models import CausalModel
from pipeline.models.device import choose_device
from pipeline.models.sharing import num_threads
from pipeline.models.student import load_student
from pipeline.runs import Session
from stages.config import RunConfig
from stages.quality_trainings import (
    Ground,
    arm_config,
    beginning_of,
    is_kept,
    load_trained,
    measure,
    setting_of,
    train,
    trial_config,
)
from stages.quality_workers import Workers

MANY, BEGINNING = 4, 3
"""times the steps of the first study: in the one with many, and on labels alone before either begins. A real student
comes trained; and one of random weights takes its first leaps by chance, which then drown what arms differ by"""
_BEGINNING_RATE = 8**-0.5  # of the study's middle rate: labels alone want less of it
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
    config: RunConfig,
    session: Session,
    short: bool,
    names: Sequence[str] | None,
    num_seeds: int | None,
    num_workers: int | None = None,
) -> QualityResult:
    """Do the trainings that are not done yet, and set them side by side; run again after any stop to go on.

    `num_workers` trainings run at a time, each with an even share of the threads and a teacher of its own in memory;
    None: as many as threads where the teacher is a small one made here, else one. PausedError where it is paused.
    """
    root = session.run.quality
    studies = studies_of(config, short, names, num_seeds)
    every = [study for group in studies.values() for study in group]
    num_steps = steps(every)
    if num_workers is None:
        num_workers = 1 if config.demo is None else num_threads()
    step_positions = config.train.batch_size * config.train.accumulation * config.data.sequence_length
    seconds = expected_seconds(every, step_positions, num_workers)
    say(
        f"bench quality: {trainings(every)} trainings, {num_steps:,} steps: about {format_seconds(seconds)} in all, "
        f"{num_workers} at a time"
    )
    # Teachers and first caches come before the count of trainings begins: its rate is of trainings alone.
    grounds = {
        name: Ground.lay(root / name, _config_of(config, name), session, _arms_of(group))
        for name, group in studies.items()
    }
    told: list[StudyResult] = []
    results: list[Result] = []
    path = root / RESULTS_NAME
    with Progress("bench quality", num_steps, "steps") as progress:
        for name, group in studies.items():
            ground = grounds[name]
            with Workers(ground, num_workers) as workers:
                _refuse_diverged(_trained(ground, [trial for _, trial in beginnings(group)], workers, progress))
                for study in group:
                    findings = _findings(ground, study, workers, progress)
                    setting = setting_of(ground, study.steps, study.beginning_steps)
                    told.append(StudyResult(_title(ground, study), setting, findings))
                    results += results_of(study.name, findings)
                    save_results(path, told, {result.name: result.value for result in results})
            ground.close()
    drawn = draw_pictures(path)
    say(f"bench quality: figures in {path}" + (f", pictures in {', '.join(map(str, drawn))}" if drawn else ""))
    return QualityResult({study.title: study.findings for study in told}, results)


# ------------------------------------------------------------------ what there is to do


def studies_of(
    config: RunConfig, short: bool, names: Sequence[str] | None, num_seeds: int | None
) -> dict[str, list[Study]]:
    """Name of a ground -> its studies. Few steps; and of a long study many, and the main arms at a large vocabulary."""
    if config.train.steps is None:
        raise ConfigError(
            "bench quality: expected train.steps, of the study with few steps, found train.epochs. Set train.steps, "
            "and train.epochs to null."
        )
    vocab_size = config.demo.vocab_size if config.demo is not None else 0
    ground = "own" if vocab_size == 0 else f"v{vocab_size}"
    arms = chosen_arms(arms_of(config.cache.head_size, vocab_size), names, short)
    for arm in arms:  # what no config may say is told before any training
        for changes in arm.candidates.values():
            arm_config(config, arm, changes)
    rate = config.train.learning_rate
    before = 0 if config.student.config is None else BEGINNING * config.train.steps
    few = Study("", config.train.steps, rate, vocab_size, arms, num_seeds, before, _BEGINNING_RATE * rate)
    if short:
        return {ground: [few]}
    many = replace(few, name="many", steps=MANY * few.steps)
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


def _arms_of(studies: Sequence[Study]) -> list[Arm]:
    return list({arm.name: arm for study in studies for arm in study.arms}.values())


def _title(ground: Ground, study: Study) -> str:
    layout = ground.cache.plan.layout
    return f"{study.steps:,} steps, V = {layout.vocab_size:,}, K = {layout.head_size}"


# ------------------------------------------------------------------ doing it


def _findings(ground: Ground, study: Study, workers: Workers, progress: Progress) -> dict[str, Finding]:
    """Every arm of a study: searched on some of its seeds, then trained with the others, then measured."""
    known: dict[str, float] = {}  # folder of a training -> its score; a later choice asks for some once more

    def train_all(trials: Sequence[Trial], beyond: bool = False) -> dict[Trial, float]:
        new = [trial for trial in trials if trial.folder not in known]
        if beyond:  # the plan, and so the total, knew nothing of them
            progress.total += sum(trial.steps for trial in new)
        known.update({trial.folder: score for trial, score in _trained(ground, new, workers, progress).items()})
        return {trial: known[trial.folder] for trial in trials}

    scores = rate_scores(study, train_all)
    while True:
        best = best_of_each(scores)
        trials = {arm.name: [study.with_seed(best[arm.name], seed) for seed in study.seeds(arm)] for arm in study.arms}
        ends = train_all([trial for of_arm in trials.values() for trial in of_arm])
        if not (diverged := {trial.arm.name for trial, ce_nats in ends.items() if not math.isfinite(ce_nats)}):
            break
        for name in diverged:  # what one seed does not survive is no rate of an arm: the next best one is taken
            warn_once(f"{trials[name][0].folder}: another seed diverged at this rate; the next best one is taken")
            scores[best[name]] = math.inf
    at_an_edge = {name for name, trial in best.items() if is_at_an_edge(tuple(scores), trial)}
    findings = {
        arm.name: Finding(
            arm=arm.name,
            candidate=best[arm.name].candidate,
            learning_rate=best[arm.name].learning_rate,
            at_an_edge=arm.name in at_an_edge,
            students={trial.seed: measure(ground, trial) for trial in trials[arm.name]},
            bytes_per_token=_bytes_per_token(ground, arm),
            changes=arm.changes_of(best[arm.name].candidate),
        )
        for arm in study.arms
    }
    return _with_gradients(ground, findings, best)


def _trained(ground: Ground, trials: Sequence[Trial], workers: Workers, progress: Progress) -> dict[Trial, float]:
    """Validation cross-entropy of each training; what was done before this start is no work of it.

    Those that are kept are looked at first, and refused before any work where they had other settings.
    """
    kept = [trial for trial in trials if is_kept(ground, trial)]
    for trial in kept:
        train(ground, trial)
        progress.total -= trial.steps
    # The longest first, so that the last ones to end are short.
    missing = sorted((trial for trial in trials if trial not in kept), key=lambda trial: not trial.arm.live)
    for trial in workers.train(missing):
        progress.advance(trial.steps, note=f"{trial.folder}: {train(ground, trial):.4f}")
    return {trial: train(ground, trial) for trial in trials}


def _refuse_diverged(beginnings: Mapping[Trial, float]) -> None:
    """NumericsError where no arm could begin with a student."""
    for trial, ce_nats in beginnings.items():
        if not math.isfinite(ce_nats):
            raise NumericsError(
                f"bench quality: what every arm begins with diverged: {trial.folder}. Lower train.learning_rate, in "
                "another run directory (--run-dir)."
            )


def _bytes_per_token(ground: Ground, arm: Arm) -> float | None:
    if arm.live or arm.name == LABELS:
        return None
    return float(ground.cache_of(arm).statistics["bytes_per_scored_position"])


# ------------------------------------------------------------------ gradients


def _with_gradients(ground: Ground, findings: dict[str, Finding], best: dict[str, Trial]) -> dict[str, Finding]:
    """Each arm's gradient beside full distillation's, at three students: where all begin, and what two arms left.

    PausedError where a signal has come.
    """
    gradients: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in findings}
    for place, student, at_end in _students(ground, best):
        full = _gradient(ground, best[FULL], student, at_end)
        for name, trial in best.items():
            ground.session.pause.check()  # each takes a second or more
            if name != FULL:
                found = angle_between(_gradient(ground, trial, student, at_end), full)
                gradients[name][place] = (found.degrees, found.norm_ratio)
    return {name: replace(finding, gradients=gradients[name]) for name, finding in findings.items()}


def _students(ground: Ground, best: dict[str, Trial]) -> list[tuple[str, CausalModel, bool]]:
    """Name, student, and whether schedules stand at their end there."""
    device = choose_device("cpu")
    return [
        ("start", load_student(beginning_of(ground, best[FULL]), ground.tokenizer, device), False),
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
