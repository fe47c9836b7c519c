"""demo: every stage in turn, offline, on the standard library's source. Like the benches, it runs others."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pipeline.config import changed
from pipeline.console import format_seconds, say
from pipeline.distill.settings import WITHOUT_TEACHER
from pipeline.errors import ConfigError
from pipeline.evaluation.summary import EvalResult, gain_of
from pipeline.runs import Outcome, RunDirectory, Session
from stages import cache_teacher, eval, prepare_teacher, report, train_student
from stages.config import RunConfig

STAGE = "demo"
LABELS_ONLY = "labels only"


def run(config: RunConfig, session: Session) -> Outcome:
    """Make a teacher, cache it, train a student from the cache and one on labels, compare them, draw the report."""
    if config.demo is None:
        raise ConfigError("demo: the config has no demo section; see the bundled config named demo")
    started, root = time.monotonic(), session.run.root
    config = changed(config, teacher={"model": str(prepare_teacher.teacher_folder(config, root))})
    labels_run = RunDirectory(root / "labels-only")
    labels_config = _labels_only(config, root)
    labels_session = Session(labels_run, session.pause, session.command)

    stages: tuple[tuple[str, Callable[[RunConfig, Session], Outcome], RunConfig, Session], ...] = (
        ("1/6 a teacher to learn from", prepare_teacher.run, config, session),
        ("2/6 cache-teacher", cache_teacher.run, config, session),
        ("3/6 train-student, from the cache", train_student.run, config, session),
        ("4/6 train-student, on labels only", train_student.run, labels_config, labels_session),
    )
    for title, stage, stage_config, stage_session in stages:
        say(f"\n── {title}")
        outcome = stage(stage_config, stage_session)
        if outcome.state == "paused":
            return outcome
    say("\n── 5/6 eval")
    baselines = {LABELS_ONLY: str(labels_run.model)}
    result = eval.run(changed(config, eval={"baselines": baselines, "teacher": config.teacher.model}), session.run)
    say("\n── 6/6 report")
    page = report.run(session.run, compare={LABELS_ONLY: labels_run})

    say(f"\n{_headline(result)}\nReport: {page}\nDone in {format_seconds(time.monotonic() - started)}.")
    return Outcome("complete", "all stages are done", {})


def _labels_only(config: RunConfig, root: Path) -> RunConfig:
    """The same student, steps and seed, on labels only, at the learning rate that is best for it."""
    assert config.demo is not None
    train = WITHOUT_TEACHER | {"learning_rate": config.demo.labels_only_learning_rate or config.train.learning_rate}
    config = changed(config, train=train, cache={"roots": [str(root / "cache"), *config.cache.roots]})
    return config.model_copy(update={"name": f"{config.name} on labels only"})


def _headline(result: EvalResult) -> str:
    gain = gain_of(result)
    assert gain is not None
    assert gain.teacher is not None
    share = f", {gain.gap_closed:.0%} of the way from there to the teacher" if gain.gap_closed is not None else ""
    return (
        f"Held-out cross-entropy in nats a token: labels only {gain.baseline.cross_entropy_nats:.3f}, distilled "
        f"{gain.student.cross_entropy_nats:.3f}, teacher {gain.teacher.cross_entropy_nats:.3f}.\n"
        f"Distillation gained {gain.nats:.3f} nat{share}."
    )
