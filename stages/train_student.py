"""train-student: train the student from the sealed cache, with no teacher in memory."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from pipeline.cache import Plan, TeacherCache
from pipeline.cache.roots import find_tokenizer
from pipeline.console import Progress, say
from pipeline.data.tokenizer import Tokenizer
from pipeline.distill.batching.batches import BatchReader
from pipeline.distill.batching.curriculum import in_curriculum
from pipeline.distill.batching.lessons import Lessons, plan_lessons
from pipeline.distill.checkpoint_room import CheckpointRoom
from pipeline.distill.guards.alarms import Alarms
from pipeline.distill.guards.early_stopping import Waiting
from pipeline.distill.journal import Journal
from pipeline.distill.keeping.begun_student import begun_student, hub_of
from pipeline.distill.keeping.export import export_model, is_exported, model_card, refuse_to_replace
from pipeline.distill.keeping.identity import Identity, frozen_shards_of, frozen_to, training_identity
from pipeline.distill.keeping.origin import origin_facts
from pipeline.distill.keeping.tensorboard_log import refuse_without_tensorboard
from pipeline.distill.learner import Learner
from pipeline.distill.saves import Saves
from pipeline.distill.step_result import StepResult
from pipeline.distill.stopwatch import Stopwatch
from pipeline.distill.training_workers import Job, count_ranks, working_together
from pipeline.distill.validation import Validation, validate
from pipeline.doctor.examine import refuse_unfit_for_student
from pipeline.models import Teacher
from pipeline.models.cache_identity import refuse_other_settings
from pipeline.models.cache_tokenizer import tokenizer_of
from pipeline.models.device import choose_device, choose_dtype
from pipeline.models.student import refuse_leaks
from pipeline.pause import PausedError
from pipeline.runs import Outcome, RunDirectory, Session
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
    with run.at_work(STAGE, config, session.command):
        # What makes it this training and no other: compared with what is on disk before a model is loaded.
        cache = TeacherCache.open(run.cache, *map(Path, config.cache.roots))
        refuse_other_settings(cache.plan, cache.folders[0], config.data, config.teacher, config.cache)
        roots = [Path(root) for root in settings.roots]
        config = _as_begun(config, cache.plan, [run.checkpoints, *roots])
        training = _identity(cache, config, records_from, run.checkpoints, use_sealed_only)
        journal = Journal(run.student, training, roots, hub_of(config.student))
        checkpoint = journal.find()
        refuse_to_replace(run.model, checkpoint)

        # What it learns from, in an order that is arithmetic: step s trains on a pure function of (seed, s).
        lessons = plan_lessons(cache, settings, training["frozen_shards"], records_from)
        ended = None if checkpoint is None else _ending(checkpoint.step, lessons, Waiting.of(checkpoint.state))
        if checkpoint is not None and ended is not None and is_exported(run.model):
            already = f"nothing left to do: {ended}; the student is in {run.model}"
            return session.finish(STAGE, _complete(checkpoint.step, already))
        if settings.tensorboard and ended is None:
            refuse_without_tensorboard()

        # The student. Where time or room is short already, nothing is begun.
        refuse_unfit_for_student(run.root, config.student, settings, cache.plan.vocab_size)
        tokenizer = tokenizer_of(cache.plan, cache.folders)
        learner = _learner(config, tokenizer, cache.plan, lessons.num_steps)
        room = CheckpointRoom(session.pause.output, learner, find_tokenizer(cache.folders))
        session.pause.guess_save(learner.checkpoint_bytes / _SLOW_DISK_BYTES_A_SECOND)
        try:
            session.pause.check_beginning()
            journal.tidy(checkpoint)
            room.check_beginning(run.checkpoints, ended is not None)
        except PausedError as stop:
            step = checkpoint.step if checkpoint else 0
            return session.finish(STAGE, Outcome.paused_after_step(step, lessons.num_steps, stop))

        # Where it stands, and the steps from there on.
        if checkpoint is None and fork_from is not None:
            done = journal.fork(fork_from, learner)
        else:
            done = journal.resume(checkpoint, learner)
            if fork_from is not None:
                say(f"--fork-from {fork_from}: is where a new training begins, and this one has begun")
        done, paused = _train(session, config, lessons, learner, journal, room, done)
        if paused is None and (reason := room.shortage_of_model()):
            paused = Outcome.paused_after_step(done, lessons.num_steps, reason)
        if paused is not None:
            return session.finish(STAGE, paused)
        return session.finish(STAGE, _finish(config, run, cache, tokenizer, lessons, learner, journal, done))


def _finish(
    config: RunConfig,
    run: RunDirectory,
    cache: TeacherCache,
    tokenizer: Tokenizer,
    lessons: Lessons,
    learner: Learner,
    journal: Journal,
    done: int,
) -> Outcome:
    """What it became: the weights that validate best, as a folder anybody can load."""
    if journal.best is None:  # lost since its checkpoint was made, or never found
        journal.choose_best(done, _validate(lessons, learner), learner)
        journal.save(done, learner)  # which says what they are
    elif journal.newest is not None and journal.newest.parent == run.checkpoints:
        journal.let_go(done, learner)  # no later checkpoint would, after a stop between the last one and here
    best = journal.load_best(learner)
    which = f"{learner.name_of(best.weights)} of step {best.step:,}"
    facts = _facts(config, cache, f"{which} of {done:,}", best.ce)
    export_model(run.model, learner.causal.model, tokenizer, model_card(facts, journal.training["train"]))
    ended = _ending(done, lessons, journal.waiting)
    return _complete(done, f"{ended}; {which} are in {run.model}")


def _learner(config: RunConfig, tokenizer: Tokenizer, plan: Plan, num_steps: int) -> Learner:
    """The student on its device, with what is needed to teach it."""
    device = choose_device(config.student.device)
    dtype = choose_dtype(config.train.dtype, device)
    learner = Learner.of(config.student, tokenizer, config.train, num_steps, device, dtype)
    refuse_leaks(learner.causal, config.student, plan.sequence_length, plan.capture["packing"])
    return learner


def _as_begun(config: RunConfig, plan: Plan, folders: list[Path]) -> RunConfig:
    """The config with the commit of a hub student that this training began with, by its checkpoints in `folders`."""
    return config.model_copy(update={"student": begun_student(config.student, plan, config.train, folders)})


def _identity(
    cache: TeacherCache, config: RunConfig, records_from: Teacher | None, checkpoints: Path, use_sealed_only: bool
) -> Identity:
    """What makes a training this one; the plan says which teacher, also where that is asked anew."""
    training = training_identity(cache.plan, config.student, config.train) | {"frozen_shards": None}
    if records_from is not None:
        training["records"] = records_from.layout.to_json()
    if use_sealed_only:  # the same shards at every start, however many more have been sealed since the first
        earlier = frozen_shards_of(training, checkpoints, map(Path, config.train.roots))
        training["frozen_shards"] = earlier or frozen_to(span.index for span in cache.sealed)
    return training


def _train(
    session: Session,
    config: RunConfig,
    lessons: Lessons,
    learner: Learner,
    journal: Journal,
    room: CheckpointRoom,
    done: int,
) -> tuple[int, Outcome | None]:
    """Do the steps from `done` on; returns how many are done, and how it paused: None after the last one."""
    settings, num_steps = config.train, lessons.num_steps
    if done == num_steps or journal.waiting.stopped:
        return done, None
    try:
        lessons = in_curriculum(lessons, settings, session.run.student / "difficulty", session.pause)
    except PausedError as stop:
        progress = {"steps": done, "of": num_steps}
        return done, Outcome.paused("while difficulties were measured", stop, progress)

    # By itself, or with other processes, each of which learns from a part of every step.
    num_ranks = 1 if lessons.teacher else count_ranks(settings, config.student.device)
    job = Job(
        cache=lessons.cache,
        student=config.student,
        settings=settings,
        autocast_dtype=learner.autocast_dtype,
        order=lessons.order,
        steps=range(done, num_steps),
        num_steps=num_steps,
        checkpoint=journal.newest,
    )
    try:
        with working_together(num_ranks, job, learner.device, session.pause) as learner.ranks:
            return _do_steps(session, lessons, learner, journal, room, job.steps)
    except PausedError as stop:  # before all of them were there
        return done, Outcome.paused_after_step(done, num_steps, stop)


def _do_steps(
    session: Session, lessons: Lessons, learner: Learner, journal: Journal, room: CheckpointRoom, steps: range
) -> tuple[int, Outcome | None]:
    """Do these steps, with the learner's ranks; returns as `_train` does."""
    settings, num_steps, step_positions = learner.settings, lessons.num_steps, lessons.step_positions
    done, device = steps.start, learner.device
    reader = BatchReader(
        lessons.source, lessons.order, steps, settings.batch_size, device, settings.needs_teacher, learner.ranks
    )
    watch, alarms, begun = Stopwatch(learner.device), Alarms(settings.warmup_steps), time.monotonic()
    saves = Saves(journal, learner, room, session.pause)
    with (
        journal.log.shown_in_tensorboard(settings.tensorboard),
        Progress(STAGE, num_steps * step_positions, "tokens", done * step_positions) as progress,
    ):
        for batches in reader:
            result = learner.learn(batches.step, batches, batches.num_scored)
            done = batches.step + 1
            journal.log_skipped(done, result, learner)
            journal.refuse_endless_skipping(done, learner)
            alarms.hear(done, result)
            alarms.hear_memory(learner.memory.step_share)
            watch.stop(step_positions)
            beside = watch.note(reader.wait_seconds, learner.memory.step_share)
            progress.advance(step_positions, note=f"{result.note(learner.skipped_steps)}, {beside}")

            if logged := _due(settings.log_every, done, num_steps):
                _log(done, result, learner, journal, watch, reader)
            session.pause.note_unit(time.monotonic() - begun)

            if _due(settings.evaluate_every, done, num_steps):
                started = time.monotonic()
                journal.log_validation(done, _validate(lessons, learner), learner)
                session.pause.note_beside(time.monotonic() - started)
            ended = done == num_steps or journal.waiting.stopped
            if ended and not logged:  # it stopped early, and its last step is logged as any last one
                _log(done, result, learner, journal, watch, reader)

            if reason := saves.after_step(done, ended):
                return done, Outcome.paused_after_step(done, num_steps, reason)
            if ended:
                break
            watch.start()
            begun = time.monotonic()
    return done, None


def _log(
    done: int,
    result: StepResult,
    learner: Learner,
    journal: Journal,
    watch: Stopwatch,
    reader: BatchReader,
) -> None:
    """What the last step learned, and what the steps since the last such line took."""
    journal.log_step(done, result, learner.skipped_steps)
    journal.log.timings({"step": done} | watch.lap(reader.wait_seconds, learner.memory.step_share))


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


def _facts(config: RunConfig, cache: TeacherCache, which: str, ce_nats: float) -> dict[str, str]:
    """What the model card says of where the weights come from."""
    return {
        "weights": f"{which}: the lowest validation loss",
        "validation cross-entropy": f"{ce_nats:.4f} nats a token",
        **origin_facts(cache.plan, config.teacher.model),
        "began as": config.student.model or f"random weights, {config.student.config}",
    }


def _due(every: int, done: int, num_steps: int) -> bool:
    return done % every == 0 or done == num_steps


def _ending(done: int, lessons: Lessons, waiting: Waiting) -> str | None:
    """How a training ended after `done` steps; None where it has not."""
    if waiting.stopped and done < lessons.num_steps:
        return (
            f"stopped early after step {done:,} of {lessons.num_steps:,}, after {waiting.evaluations:,} evaluations "
            "without improvement (train.patience)"
        )
    return f"{done:,} steps done" if done == lessons.num_steps else None


def _complete(done: int, message: str) -> Outcome:
    return Outcome("complete", message, {"steps": done, "of": done})
