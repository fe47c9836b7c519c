"""Trainings of `bench quality`: each an ordinary run of train-student in a folder of its own, done once and kept."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import files
from pipeline.benches.quality.arms import BEGINNING, Arm
from pipeline.benches.quality.plan import Trial
from pipeline.cache import TeacherCache
from pipeline.config import differences, dump_config, parse_config
from pipeline.data.tokenizer import Tokenizer
from pipeline.distill.batching.lessons import spread, unfit_target
from pipeline.distill.batching.live_records import whole_teacher
from pipeline.distill.keeping.identity import Identity, training_identity
from pipeline.distill.keeping.metrics_log import read_log
from pipeline.errors import ConfigError, IdentityError, NumericsError, mended_by
from pipeline.evaluation.measures import data_of, held_out_indices, measure_model, teacher_measures
from pipeline.evaluation.study.findings import Measured
from pipeline.evaluation.study.results import Setting
from pipeline.models import CausalModel
from pipeline.models.cache_tokenizer import tokenizer_of
from pipeline.models.device import choose_device
from pipeline.models.settings import StudentSettings
from pipeline.models.student import load_student
from pipeline.plain_yaml import load_yaml
from pipeline.runs import RunDirectory, Session
from stages import train_student
from stages.config import RunConfig
from stages.prepare_bench import captured, load_scorer, with_teacher

_CHOSEN, _MEASURED = "chosen.json", "measured.json"
_OF_BEGINNINGS = 1_000_000  # from a seed to that of its beginning's order: no arm is to meet again what that had first


@dataclass(frozen=True, slots=True)
class Ground:
    """What the trainings of one vocabulary share: a teacher that is there, and caches of one text."""

    root: Path
    config: RunConfig
    session: Session
    cache: TeacherCache
    """of the default: every arm is measured on its sequences"""
    caches: dict[str, TeacherCache]
    """of the arms that learn from another one"""
    tokenizer: Tokenizer
    teacher: CausalModel
    held_out: np.ndarray
    """validation sequences that no training validates on: rates and weights are chosen on the others"""

    @classmethod
    def lay(cls, root: Path, config: RunConfig, session: Session, arms: Iterable[Arm]) -> Ground:
        """Make the teacher and the caches of the arms in `root`, or find them there; PausedError where that is paused.

        IdentityError where a training from one of the caches would not be paired with the others.
        """
        session = Session(RunDirectory(root), session.pause, session.command)
        config = with_teacher(config, session)
        cache = captured(config, session, "caches/default")
        caches = {}
        for arm in arms:
            candidates = [arm_config(config, arm, changes) for changes in arm.candidates.values()]
            if arm.cache:
                caches[arm.name] = captured(candidates[0], session, f"caches/{arm.name}")
                refuse_another_order(cache, caches[arm.name])
            if not arm.live:
                _refuse_unfit(caches.get(arm.name, cache), candidates)
        return cls.over(root, config, session, cache, caches)

    @classmethod
    def over(
        cls, root: Path, config: RunConfig, session: Session, cache: TeacherCache, caches: dict[str, TeacherCache]
    ) -> Ground:
        """A ground that is laid already, in any process: what it has on disk, and the teacher loaded."""
        tokenizer = tokenizer_of(cache.plan, cache.folders)
        teacher = load_scorer(config.teacher, tokenizer)
        teacher.model.eval()
        return cls(root, config, session, cache, caches, tokenizer, teacher, _unseen(cache, config))

    def cache_of(self, arm: Arm) -> TeacherCache:
        """The cache an arm learns from; of one that reads none, the sequences of the default's."""
        return self.caches[arm.name] if arm.cache else self.cache

    def close(self) -> None:
        """Let go of the caches' files."""
        for cache in (self.cache, *self.caches.values()):
            cache.close()


def _refuse_unfit(cache: TeacherCache, configs: Iterable[RunConfig]) -> None:
    """ConfigError, before anything trains, for a target that a cache's records cannot give."""
    for config in configs:
        if unfit := unfit_target(str(cache.folders[0]), cache.plan.layout, config.train):
            raise ConfigError(unfit)


def arm_config(config: RunConfig, arm: Arm, changes: dict[str, Any]) -> RunConfig:
    """The config of an arm, checked as one of a file; `changes` are of its train section."""
    values: dict[str, Any] = load_yaml(dump_config(config).decode())
    values["train"] |= changes
    values["cache"] |= arm.cache
    return parse_config(RunConfig, values, where=f"bench quality, arm {arm.name}")


def trial_config(ground: Ground, trial: Trial) -> RunConfig:
    """The whole config of a training."""
    changes = {
        **trial.arm.candidates[trial.candidate],
        "steps": trial.steps,
        "epochs": None,
        "learning_rate": trial.learning_rate,
        "seed": trial.seed + _OF_BEGINNINGS * (trial.arm.name == BEGINNING.name),
        "roots": [],
        "workers": 1,  # several trainings run at a time instead
    }
    config = arm_config(ground.config, trial.arm, changes)
    roots = [str(ground.cache_of(trial.arm).folders[0])]
    return config.model_copy(
        update={"cache": config.cache.model_copy(update={"roots": roots}), "student": beginning_of(ground, trial)}
    )


def beginning_of(ground: Ground, trial: Trial) -> StudentSettings:
    """The student a training begins with."""
    if trial.beginning is None:
        return ground.config.student.model_copy(update={"seed": trial.seed})
    beginning = str(trial_run(ground, trial.beginning).model)
    return StudentSettings(model=beginning, device=ground.config.student.device)


def trial_run(ground: Ground, trial: Trial) -> RunDirectory:
    """Where a training lies."""
    return RunDirectory(ground.root / "trainings" / trial.folder)


def is_kept(ground: Ground, trial: Trial) -> bool:
    """Whether a training is done."""
    return (trial_run(ground, trial).root / _CHOSEN).is_file()


def train(ground: Ground, trial: Trial) -> float:
    """Train, unless it is done: the lowest validation cross-entropy in nats, by which rates and candidates are chosen.

    Infinite where the training diverged. PausedError where it is paused; IdentityError where the one that is kept had
    other settings.
    """
    run, config = trial_run(ground, trial), trial_config(ground, trial)
    path, identity = run.root / _CHOSEN, _identity(ground, trial, config)
    with mended_by(f"Remove {run.root} and run the same command again, which does this training once more."):
        kept = files.read_json(path) if path.is_file() else None
    if kept is None:
        kept = {"identity": identity, "validation_ce_nats": _train(ground, trial, config, run)}
        files.write_json(path, kept)
    files.remove_folder(run.checkpoints)  # as large as four students, and nothing is left to resume
    if found := differences(kept["identity"], identity):
        raise IdentityError(
            f"{path}: this training is kept, and was done with other settings than now:\n" + "\n".join(found) + "\nPut "
            "them back, or begin another study with --run-dir."
        )
    ce_nats = kept["validation_ce_nats"]
    return math.inf if ce_nats is None else float(ce_nats)


def measure(ground: Ground, trial: Trial) -> Measured:
    """A finished training's student on held-out text, beside the live teacher; measured once and kept.

    PausedError where a pause was asked for before it.
    """
    path = trial_run(ground, trial).root / _MEASURED
    sequences = ground.held_out.tolist()
    with mended_by("Remove it and run the same command again, which measures this training once more."):
        kept = files.read_json(path) if path.is_file() else None
    if kept is not None and kept["sequences"] == sequences:
        return Measured(kept["ce_nats"], kept["kl_nats"])
    ground.session.pause.check()
    student = load_trained(ground, trial)
    found = measure_model(student, ground.cache, ground.held_out, ground.config.eval.batch_size, ground.teacher)
    assert found.kl_exact_nats is not None
    measured = Measured(found.cross_entropy_nats, found.kl_exact_nats)
    files.write_json(path, {"sequences": sequences, "ce_nats": measured.ce_nats, "kl_nats": measured.kl_nats})
    return measured


def load_trained(ground: Ground, trial: Trial) -> CausalModel:
    """The student a training left."""
    return load_scorer(StudentSettings(model=str(trial_run(ground, trial).model)), ground.tokenizer)


def _train(ground: Ground, trial: Trial, config: RunConfig, run: RunDirectory) -> float | None:
    """The lowest validation cross-entropy; None where no number came of it."""
    train = config.train
    teacher = whole_teacher(ground.teacher, train.batch_size, train.chunk_positions) if trial.arm.live else None
    session = Session(run, ground.session.pause, ground.session.command)
    try:
        outcome = train_student.run(config, session, records_from=teacher)
    except NumericsError:
        return None
    outcome.refuse_pause()
    lines = read_log(run.metrics)
    return min(float(line["ce"]) for line in lines if line["kind"] == "validation" and line["ce"] is not None)


def _identity(ground: Ground, trial: Trial, config: RunConfig) -> Identity:
    plan = ground.cache_of(trial.arm).plan
    return training_identity(plan, config.student, config.train) | {"live": trial.arm.live}


def refuse_another_order(default: TeacherCache, cache: TeacherCache) -> None:
    """IdentityError where a training from `cache` would take other sequences, or in another order: not paired."""
    if (default.plan.sequences_digest, default.plan.shards) != (cache.plan.sequences_digest, cache.plan.shards):
        raise IdentityError(
            f"{cache.folders[0]}: expected the sequences and shards of {default.folders[0]}, so that every arm learns "
            f"in one order; found {len(cache.plan.shards)} shards, not {len(default.plan.shards)}, or other text. "
            "Lower cache.shard_positions and begin another study with --run-dir."
        )


def _unseen(cache: TeacherCache, config: RunConfig) -> np.ndarray:
    """Held-out sequences that no training validates on, at most eval.max_sequences."""
    held_out = held_out_indices(cache)
    left = np.setdiff1d(held_out, spread(held_out, config.train.validation_sequences))
    if not len(left):
        raise ConfigError(
            f"bench quality: train.validation_sequences takes all {len(held_out)} held-out sequences, and none is left "
            "to measure on. Lower it, or raise data.validation_fraction."
        )
    return spread(left, config.eval.max_sequences)


def setting_of(ground: Ground, steps: int, beginning_steps: int = 0) -> Setting:
    """What the arms of a study have in common; nothing in it depends on where the run lies."""
    config, layout = ground.config, ground.cache.plan.layout
    held_out = data_of(ground.cache, ground.held_out)
    student = load_student(config.student, ground.tokenizer, choose_device("cpu"))
    return Setting(
        text=str(config.data.dataset or config.data.path or config.data.source),
        teacher=None if config.demo is not None else str(config.teacher.model),
        teacher_parameters=_num_parameters(ground.teacher),
        teacher_ce_nats=teacher_measures(ground.cache, ground.held_out).cross_entropy_nats,
        student=student.architecture,
        student_parameters=_num_parameters(student),
        beginning_steps=beginning_steps,
        steps=steps,
        vocab_size=layout.vocab_size,
        head_size=layout.head_size,
        num_sequences=held_out.num_sequences,
        num_positions=held_out.num_positions,
    )


def _num_parameters(causal: CausalModel) -> int:
    return sum(parameter.numel() for parameter in causal.model.parameters())
