"""cache-teacher: run the teacher once over the text and leave a sealed cache of its predictions."""

from __future__ import annotations

import functools
import time
from pathlib import Path

from pipeline.cache.plan import PLAN_NAME, ShardSpan, in_turn
from pipeline.cache.roots import SealedShard, earlier_plan
from pipeline.cache.teacher_cache import TeacherCache
from pipeline.cache.writer import CacheWriter
from pipeline.console import Progress, format_bytes, say, warn_once
from pipeline.distill.batching.lessons import unfit_target
from pipeline.doctor.examine import refuse_unfit_for_teacher
from pipeline.errors import NumericsError
from pipeline.models import Teacher
from pipeline.models.cache_identity import refuse_other_cache, restore_tokenizer
from pipeline.models.capture_workers import CaptureWorkers, Job
from pipeline.models.device import choose_device, environment
from pipeline.models.planning import load_teacher, note_other_machine, plan_capture, planned_sequences
from pipeline.models.shard_room import ShardRoom
from pipeline.models.shard_scorer import ShardScorer
from pipeline.models.sharing import count_workers, free_card
from pipeline.models.unscored import Unscored
from pipeline.pause import PausedError, PauseRequest
from pipeline.runs import Outcome, Session, paused_without_progress
from stages.config import RunConfig

STAGE = "cache-teacher"
# What a budget may be too short for, with what is kept of it; and what helps beside a longer one.
_PLANNING = (
    "loading the teacher, reading and tokenising the text take longer. Until there is a plan nothing of that is kept",
    "take less text: data.max_tokens or data.max_documents",
)
_FIRST_SHARD = (
    "loading the teacher and scoring one shard take longer. A shard that is given up is lost",
    "make smaller shards, for a new cache: cache.shard_positions, in a new --run-dir",
)


def run(config: RunConfig, session: Session) -> Outcome:
    """Plan once, then score shard after shard; run again after any stop to continue where it was."""
    folder, roots = session.run.cache, [Path(root) for root in config.cache.roots]
    with session.run.at_work(STAGE, config, session.command) as earlier:
        try:
            _capture(config, session)
        except PausedError as stop:
            if earlier_plan(folder, roots) is None:
                # What a first start downloads may be there for a second one, unless that is one of another session.
                if session.pause.in_session or paused_without_progress(earlier):
                    session.pause.refuse_in_vain(stop, *_PLANNING)
                return session.finish(STAGE, Outcome.paused("before there was a plan", stop))
            session.pause.refuse_in_vain(stop, *_FIRST_SHARD)
            return session.finish(STAGE, _outcome(folder, roots, stop))
        return session.finish(STAGE, _outcome(folder, roots))


def _capture(config: RunConfig, session: Session) -> None:
    """Do all that is not done yet; PausedError where a pause comes first."""
    folder, pause, settings = session.run.cache, session.pause, (config.data, config.teacher, config.cache)
    roots = [Path(root) for root in config.cache.roots]

    # What an earlier start planned stands. A config that no longer fits it is refused before any compute.
    found = earlier_plan(folder, roots)
    shards: dict[int, SealedShard] = {}  # those that are sealed, here or in a root
    teacher: Teacher | None = None
    if found is None:
        pause.check_beginning()
        refuse_unfit_for_teacher(session.run.root, config.teacher, config.cache)
        count_workers(config.teacher.workers, config.teacher.device)  # too many are refused before hours of planning
        plan, sequences, teacher = plan_capture(folder, *settings, pause, config.student)
        pending = in_turn(plan.shards)
        if unfit := unfit_target(str(folder), plan.layout, config.train):
            warn_once(f"train-student would refuse what this config asks of it. {unfit}")
    else:
        plan, plan_folders = found
        cache = TeacherCache.open(folder, *roots)
        refuse_other_cache(plan, plan_folders[0], *settings, cache.complete)
        restore_tokenizer(plan, plan_folders, folder, config.teacher)
        if not (folder / PLAN_NAME).is_file():
            plan.save(folder / PLAN_NAME)
        sequences = planned_sequences(plan, plan_folders, folder, config.data, config.teacher, pause)
        if cache.complete:
            return
        pause.check_beginning()
        refuse_unfit_for_teacher(session.run.root, config.teacher, config.cache, plan)
        shards, pending = cache.shards, cache.missing

    # Room for a shard is asked for before the teacher is loaded, where shards have shown what they take.
    made_on = environment(choose_device(config.teacher.device))
    note_other_machine(plan, shards, made_on)
    writer = CacheWriter(folder, plan, sequences, made_on)
    writer.remove_unfinished()  # nobody else has begun to write
    room = ShardRoom(pause.output, sequences, [shard.seal for shard in shards.values()])
    room.check(pending)
    workers = min(count_workers(config.teacher.workers, config.teacher.device), len(pending))
    if teacher is None and (workers == 1 or room.must_measure):
        teacher = load_teacher(plan, config.teacher)
    if teacher is not None:
        room.measure(teacher, pending[0])

    # The work: one shard after another, or several side by side; each is sealed before its process begins the next.
    waiting = sum(span.count for span in pending) * plan.sequence_length
    total = plan.num_sequences * plan.sequence_length
    by = f", {workers} at a time" if workers > 1 else ""
    say(f"{STAGE}: {len(pending)} of {len(plan.shards)} shards to do, {waiting:,} of {total:,} tokens{by}")
    with Progress(STAGE, total, "tokens", done=total - waiting) as progress:
        if workers == 1:
            assert teacher is not None
            _seal(pending, ShardScorer(plan, sequences, teacher, writer), room, pause, progress)
            return
        teacher = None
        free_card()
        with CaptureWorkers(Job(folder, roots, config.data, config.teacher), workers) as others:
            others.seal(pending, room, pause, progress)


def _seal(
    pending: list[ShardSpan], scorer: ShardScorer, room: ShardRoom, pause: PauseRequest, progress: Progress
) -> None:
    """Seal all of these shards in this process; PausedError where a pause comes first.

    NumericsError at the end where some cannot be scored.
    """
    unscored = Unscored()
    for number, span in enumerate(pending):
        if reason := pause.reason():
            raise PausedError(reason)
        room.check(pending[number:])
        note = f"shard {span.index + 1} of {len(scorer.plan.shards)}"
        started = time.monotonic()
        try:
            seal = scorer.seal(span, pause, functools.partial(progress.advance, note=note))
        except NumericsError as error:
            unscored.note(span, error)
            continue
        unscored.sealed_one()
        room.learn(seal.size_bytes, seal.num_scored)
        pause.note_unit(time.monotonic() - started)
    unscored.refuse()


def _outcome(folder: Path, roots: list[Path], stop: PausedError | None = None) -> Outcome:
    """Where the cache stands now, from what is sealed."""
    cache = TeacherCache.open(folder, *roots)
    sealed, num_shards = len(cache.sealed), len(cache.plan.shards)
    num_positions = sum(shard.seal.num_scored for shard in cache.shards.values())
    size_bytes = sum(shard.seal.size_bytes for shard in cache.shards.values())
    progress = {"shards": sealed, "of": num_shards, "scored_positions": num_positions, "bytes": size_bytes}
    amount = f"{num_positions:,} scored positions, {format_bytes(size_bytes)}"
    if stop is not None:
        return Outcome.paused(f"with {sealed} of {num_shards} shards sealed ({amount})", stop, progress)
    if not cache.complete:
        lost = "shards that were sealed when this start began are gone again, and must be scored once more"
        return Outcome.paused(f"with {sealed} of {num_shards} shards sealed ({amount})", lost, progress)
    per_position = size_bytes / max(1, num_positions)
    return Outcome("complete", f"all {num_shards} shards sealed: {amount}, {per_position:,.0f} bytes each", progress)
