"""train-student: train the student from the sealed cache, with no teacher in memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pipeline.cache import TeacherCache
from pipeline.cache.roots import find_tokenizer
from pipeline.config import keys_of_kind
from pipeline.console import Progress
from pipeline.data.planned_tokenizer import planned_tokenizer
from pipeline.distill.batches import BatchReader
from pipeline.distill.export import export_model, model_card
from pipeline.distill.journal import Journal, frozen_shards_of
from pipeline.distill.learner import Learner
from pipeline.distill.lessons import Lessons, plan_lessons
from pipeline.distill.origin import origin_facts
from pipeline.distill.stopwatch import Stopwatch
from pipeline.distill.validation import Validation, validate
from pipeline.models.cache_identity import refuse_other_settings
from pipeline.models.device import choose_device, choose_dtype
from pipeline.models.student import load_student, recompute_activations, refuse_leaks, student_identity
from pipeline.runs import Outcome, Session
from stages.config import RunConfig

STAGE = "train-student"
_SLOW_DISK_BYTES_A_SECOND = 1e8  # until a first checkpoint has been timed: written, flushed, and read back


def run(config: RunConfig, session: Session, use_sealed_only: bool = False, fork_from: Path | None = None) -> Outcome:
    """Train until the last step or a pause; run again after any stop to continue from the newest checkpoint."""
    run, settings = session.run, config.train
    with run.at_work(STAGE, config):
        # What makes it this training and no other: compared with what is on disk before a model is loaded.
        cache = TeacherCache.open(run.cache, *map(Path, config.cache.roots))
        refuse_other_settings(cache.plan, cache.folders[0], config.data, config.teacher, config.cache)
        schedule = keys_of_kind(settings, "schedule")
        training: dict[str, Any] = {
            "plan": cache.plan.hash,
            "frozen_shards": None,
            "student": student_identity(config.student),
            "train": schedule,
        }
        roots = [Path(root) for root in settings.roots]
        if use_sealed_only:  # the same shards at every start, however many more have been sealed since the first
            earlier = frozen_shards_of(training, [run.checkpoints, *roots])
            training["frozen_shards"] = earlier or [span.index for span in cache.sealed]
        journal = Journal(run.student, training)
        checkpoint = journal.find(roots)

        # What it learns from, in an order that is arithmetic: step s trains on a pure function of (seed, s).
        lessons = plan_lessons(cache, settings, training["frozen_shards"])
        if checkpoint is not None and checkpoint.step == lessons.num_steps and run.model.is_dir():
            return session.finish(STAGE, _complete(lessons, f"nothing left to do; the student is in {run.model}"))

        # The student, and where it stands.
        device = choose_device(config.student.device)
        tokenizer = planned_tokenizer(find_tokenizer(cache.folders), cache.plan.identity["tokenizer"])
        causal = load_student(config.student, tokenizer, device)
        refuse_leaks(causal, cache.plan.sequence_length, cache.plan.capture["packing"])
        if settings.gradient_checkpointing:
            recompute_activations(causal)
        learner = Learner(causal, settings, lessons.num_steps, choose_dtype(settings.dtype, device))
        if checkpoint is None and fork_from is not None:
            done = journal.fork(fork_from, learner)
        else:
            done = journal.resume(checkpoint, learner)

        paused = _train(config, session, lessons, learner, journal, done)
        if paused is not None:
            return session.finish(STAGE, paused)

        if journal.best is None:  # lost since its checkpoint was made, or never found
            journal.choose_best(lessons.num_steps, _validate(config, lessons, learner), learner)

        # What it became: the weights that validate best, as a folder anybody can load.
        best = journal.load_best(learner)
        facts = {
            "weights": f"{best.weights}, of step {best.step:,} of {lessons.num_steps:,}: the lowest validation loss",
            "validation cross-entropy": f"{best.ce:.4f} nats a token",
            **origin_facts(cache.plan, config.teacher.model),
            "began as": config.student.model or f"random weights, {config.student.config}",
        }
        export_model(run.model, causal.model, tokenizer, model_card(facts, schedule))
        message = f"{lessons.num_steps:,} steps done; {best.weights} weights of step {best.step:,} are in {run.model}"
        return session.finish(STAGE, _complete(lessons, message))


def _train(
    config: RunConfig, session: Session, lessons: Lessons, learner: Learner, journal: Journal, done: int
) -> Outcome | None:
    """Do the steps from `done` on; returns None after the last one, or how it paused."""
    settings, num_steps, step_positions = config.train, lessons.num_steps, lessons.step_positions
    steps = range(done, num_steps)
    reader = BatchReader(
        lessons.cache, lessons.order, steps, settings.batch_size, learner.device, with_records=settings.needs_teacher
    )
    session.pause.note_save(learner.checkpoint_bytes / _SLOW_DISK_BYTES_A_SECOND)
    watch, owed, begun = Stopwatch(learner.device), False, time.monotonic()
    with Progress(STAGE, num_steps * step_positions, "tokens", done * step_positions) as progress:
        for lesson in reader:
            result = learner.learn(lesson.step, lesson.batches, lesson.num_scored)
            done = lesson.step + 1
            journal.refuse_endless_skipping(done, learner)
            watch.stop(step_positions)
            progress.advance(step_positions, note=f"loss {result.loss:.3f}")

            if _due(settings.log_every, done, num_steps):
                journal.log_step(done, result, learner.skipped_steps)
                journal.log.timings({"step": done} | watch.lap(reader.wait_seconds))
            if _due(settings.evaluate_every, done, num_steps):
                journal.log_validation(done, _validate(config, lessons, learner), learner)

            session.pause.note_unit(time.monotonic() - begun)

            # A checkpoint holds all the loop needs; a pause makes one first. While steps are skipped one that is due
            # waits for the next good step, so that the newest one does not hold weights that have gone bad.
            reason = session.pause.reason() if done < num_steps else None
            owed |= _due(settings.checkpoint_every, done, num_steps)
            if reason or done == num_steps or (owed and learner.skipped_in_a_row == 0):
                started = time.monotonic()
                journal.save(done, learner)
                owed = False
                session.pause.note_save(time.monotonic() - started)
            if reason:
                progress_made = {"steps": done, "of": num_steps}
                return Outcome("paused", f"paused after step {done:,} of {num_steps:,}: {reason}", progress_made)
            watch.start()
            begun = time.monotonic()
    return None


def _validate(config: RunConfig, lessons: Lessons, learner: Learner) -> dict[str, Validation]:
    """Measure raw and averaged weights on the cached validation sequences."""
    settings, found = config.train, {}
    for weights in learner.weight_kinds:
        with learner.holding(weights) as causal:
            found[weights] = validate(
                causal,
                lessons.cache,
                lessons.validation_indices,
                settings.batch_size,
                settings.chunk_positions,
                learner.autocast_dtype,
            )
    return found


def _due(every: int, done: int, num_steps: int) -> bool:
    return done % every == 0 or done == num_steps


def _complete(lessons: Lessons, message: str) -> Outcome:
    return Outcome("complete", message, {"steps": lessons.num_steps, "of": lessons.num_steps})
