"""train-student: train the student from the sealed cache, with no teacher in memory."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.cache import Plan, TeacherCache
from pipeline.cache.roots import find_tokenizer
from pipeline.config import keys_of_kind
from pipeline.console import Progress
from pipeline.data.planned_tokenizer import planned_tokenizer
from pipeline.data.tokenizer import Tokenizer
from pipeline.distill.alarms import Alarms
from pipeline.distill.batches import BatchReader
from pipeline.distill.curriculum import in_curriculum
from pipeline.distill.early_stopping import Waiting
from pipeline.distill.export import export_model, model_card
from pipeline.distill.journal import Best, Journal, frozen_shards_of
from pipeline.distill.learner import Learner
from pipeline.distill.lessons import Lessons, plan_lessons
from pipeline.distill.origin import origin_facts
from pipeline.distill.stopwatch import Stopwatch
from pipeline.distill.tensorboard_log import refuse_without_tensorboard
from pipeline.distill.validation import Validation, validate
from pipeline.models import Teacher
from pipeline.models.cache_identity import refuse_other_settings
from pipeline.models.device import choose_device, choose_dtype
from pipeline.models.student import load_student, recompute_activations, refuse_leaks, student_identity
from pipeline.pause import PausedError
from pipeline.runs import Outcome, Session
from stages.config import RunConfig

STAGE = "train-student"
_SLOW_DISK_BYTES_A_SECOND = 1e8  # until a first checkpoint has been timed: written, flushed, and read back


def run(
    config: RunConfig,
    session: Session,
    use_sealed_only: bool = False,
    fork_from: Path | None = None,
    records_from: Teacher | None = None,
) -> Outcome:
    """Train until the last step or a pause; run again after any stop to continue from the newest checkpoint.

    With `records_from`, a teacher in memory, the cache gives the sequences and the teacher the records.
    """
    run, settings = session.run, config.train
    with run.at_work(STAGE, config):
        # What makes it this training and no other: compared with what is on disk before a model is loaded.
        cache = TeacherCache.open(run.cache, *map(Path, config.cache.roots))
        refuse_other_settings(cache.plan, cache.folders[0], config.data, config.teacher, config.cache)
        training = _identity(cache.plan, config, records_from)
        roots = [Path(root) for root in settings.roots]
        if use_sealed_only:  # the same shards at every start, however many more have been sealed since the first
            earlier = frozen_shards_of(training, [run.checkpoints, *roots])
            training["frozen_shards"] = earlier or [span.index for span in cache.sealed]
        journal = Journal(run.student, training)
        checkpoint = journal.find(roots)

        if settings.tensorboard:
            refuse_without_tensorboard()

        # What it learns from, in an order that is arithmetic: step s trains on a pure function of (seed, s).
        lessons = plan_lessons(cache, settings, training["frozen_shards"], records_from)
        if checkpoint is not None and run.model.is_dir():
            ended = _ending(checkpoint.step, lessons, Waiting.of(checkpoint.state))
            if ended is not None:
                message = f"nothing left to do: {ended}; the student is in {run.model}"
                return session.finish(STAGE, _complete(checkpoint.step, message))

        # The student, and where it stands.
        tokenizer = planned_tokenizer(find_tokenizer(cache.folders), cache.plan.identity["tokenizer"])
        learner = _learner(config, tokenizer, cache.plan, lessons.num_steps)
        if checkpoint is None and fork_from is not None:
            done = journal.fork(fork_from, learner)
        else:
            done = journal.resume(checkpoint, learner)

        done, paused = _train(config, session, lessons, learner, journal, done)
        if paused is not None:
            return session.finish(STAGE, paused)

        if journal.best is None:  # lost since its checkpoint was made, or never found
            journal.choose_best(done, _validate(lessons, learner), learner)

        # What it became: the weights that validate best, as a folder anybody can load.
        best = journal.load_best(learner)
        facts = _facts(config, cache, best, done)
        export_model(run.model, learner.causal.model, tokenizer, model_card(facts, training["train"]))
        ended = _ending(done, lessons, journal.waiting)
        message = f"{ended}; {best.weights} weights of step {best.step:,} are in {run.model}"
        return session.finish(STAGE, _complete(done, message))


def _learner(config: RunConfig, tokenizer: Tokenizer, plan: Plan, num_steps: int) -> Learner:
    """The student on its device, with what is needed to teach it."""
    device = choose_device(config.student.device)
    causal = load_student(config.student, tokenizer, device)
    refuse_leaks(causal, plan.sequence_length, plan.capture["packing"])
    if config.train.gradient_checkpointing:
        recompute_activations(causal)
    return Learner(causal, config.train, num_steps, choose_dtype(config.train.dtype, device))


def _identity(plan: Plan, config: RunConfig, records_from: Teacher | None) -> dict[str, Any]:
    """What makes a training this one; the plan says which teacher, also where that is asked anew."""
    training = {
        "plan": plan.hash,
        "frozen_shards": None,
        "student": student_identity(config.student),
        "train": keys_of_kind(config.train, "schedule"),
    }
    return training if records_from is None else training | {"records": records_from.layout.to_json()}


def _train(
    config: RunConfig, session: Session, lessons: Lessons, learner: Learner, journal: Journal, done: int
) -> tuple[int, Outcome | None]:
    """Do the steps from `done` on; returns how many are done, and how it paused: None after the last one."""
    settings, num_steps, step_positions = config.train, lessons.num_steps, lessons.step_positions
    try:
        lessons = in_curriculum(lessons, settings, session.run.student / "difficulty", session.pause)
    except PausedError as stop:
        paused = f"paused while difficulties were measured: {stop}"
        return done, Outcome("paused", paused, {"steps": done, "of": num_steps})
    steps = range(done, done if journal.waiting.stopped else num_steps)
    reader = BatchReader(
        lessons.source, lessons.order, steps, settings.batch_size, learner.device, with_records=settings.needs_teacher
    )
    session.pause.note_save(learner.checkpoint_bytes / _SLOW_DISK_BYTES_A_SECOND)
    watch, alarms, owed, begun = Stopwatch(learner.device), Alarms(settings.warmup_steps), False, time.monotonic()
    with (
        journal.log.shown_in_tensorboard(settings.tensorboard),
        Progress(STAGE, num_steps * step_positions, "tokens", done * step_positions) as progress,
    ):
        for lesson in reader:
            result = learner.learn(lesson.step, lesson, lesson.num_scored)
            done = lesson.step + 1
            journal.log_skipped(done, result, learner)
            journal.refuse_endless_skipping(done, learner)
            alarms.hear(done, result)
            watch.stop(step_positions)
            progress.advance(step_positions, note=result.note(learner.skipped_steps))

            if _due(settings.log_every, done, num_steps):
                journal.log_step(done, result, learner.skipped_steps)
                share = learner.memory.share()
                journal.log.timings({"step": done} | watch.lap(reader.wait_seconds, share))
                alarms.hear_memory(share)
            if _due(settings.evaluate_every, done, num_steps):
                journal.log_validation(done, _validate(lessons, learner), learner)

            session.pause.note_unit(time.monotonic() - begun)
            ended = done == num_steps or journal.waiting.stopped

            # A checkpoint holds all the loop needs; a pause makes one first. While steps are skipped one that is due
            # waits for the next good step, so that the newest one does not hold weights that have gone bad.
            reason = None if ended else session.pause.reason()
            owed |= _due(settings.checkpoint_every, done, num_steps)
            if reason or ended or (owed and learner.skipped_in_a_row == 0):
                started = time.monotonic()
                journal.save(done, learner)
                owed = False
                session.pause.note_save(time.monotonic() - started)
            if reason:
                progress_made = {"steps": done, "of": num_steps}
                return done, Outcome("paused", f"paused after step {done:,} of {num_steps:,}: {reason}", progress_made)
            if ended:
                break
            watch.start()
            begun = time.monotonic()
    return done, None


def _validate(lessons: Lessons, learner: Learner) -> dict[str, Validation]:
    """Measure raw and averaged weights on the cached validation sequences."""

    def measured(weights: str) -> Validation:
        with learner.holding(weights) as causal:
            return validate(
                causal,
                lessons.cache,
                lessons.validation_indices,
                learner.memory.rows(),
                learner.memory.chunk_positions,
                learner.autocast_dtype,
            )

    return {weights: learner.memory.until_it_fits(partial(measured, weights)) for weights in learner.weight_kinds}


def _facts(config: RunConfig, cache: TeacherCache, best: Best, done: int) -> dict[str, str]:
    """What the model card says of where the weights come from."""
    return {
        "weights": f"{best.weights}, of step {best.step:,} of {done:,}: the lowest validation loss",
        "validation cross-entropy": f"{best.ce:.4f} nats a token",
        **origin_facts(cache.plan, config.teacher.model),
        "began as": config.student.model or f"random weights, {config.student.config}",
    }


def _due(every: int, done: int, num_steps: int) -> bool:
    return done % every == 0 or done == num_steps


def _ending(done: int, lessons: Lessons, waiting: Waiting) -> str | None:
    """How a training ended after `done` steps; None where it has not."""
    if waiting.stopped:
        return (
            f"stopped early after step {done:,} of {lessons.num_steps:,}, after {waiting.evaluations:,} evaluations "
            "without improvement (train.patience)"
        )
    return f"{done:,} steps done" if done == lessons.num_steps else None


def _complete(done: int, message: str) -> Outcome:
    return Outcome("complete", message, {"steps": done, "of": done})
