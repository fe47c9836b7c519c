"""estimate: what a config will cost in tokens, bytes, hours and sessions, before it runs."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from pipeline.cache.roots import earlier_plan
from pipeline.distill.batching.lessons import unfit_target
from pipeline.distill.keeping.begun_student import begun_student
from pipeline.distill.training_workers import count_training_cards
from pipeline.doctor.examine import refuse_unfit
from pipeline.errors import ConfigError, MachineError
from pipeline.models.device import choose_device, environment
from pipeline.models.sharing import free_card
from pipeline.models.student import load_student, refuse_leaks, refuse_short
from pipeline.pause import PausedError
from pipeline.pricing.estimate import Estimate, TrainingPrice
from pipeline.pricing.standing import price_new_cache, price_planned_cache, training_done
from pipeline.pricing.table import tables
from pipeline.pricing.training import num_steps_on, probe_training
from pipeline.runs import RunDirectory
from stages.config import RunConfig


def run(config: RunConfig, run: RunDirectory, gigabytes: float, session_hours: float) -> Estimate:
    """Try every part on this machine, in memory, and price what is left to do; nothing is written."""
    refuse_unfit(run.root, config.student.device)
    places = [run.cache, *map(Path, config.cache.roots)]

    # The cache: the teacher scores a few batches of the text, unless all of it is sealed already.
    settings = (config.data, config.teacher, config.cache)
    found = earlier_plan(places[0], places[1:])
    try:
        if found is None:
            refuse_short(config.student, config.data.sequence_length)
            standing = price_new_cache(*settings, gigabytes, session_hours)
        else:
            standing = price_planned_cache(*found, places, settings, gigabytes, session_hours)
    except PausedError as full:  # a card that something else fills; a stage would pause, and here is nothing to save
        raise MachineError(str(full)) from full
    if unfit := unfit_target(str(places[0]), standing.records.layout, config.train):
        raise ConfigError(unfit)
    free_card()  # the teacher's: both models together may not fit

    # The training: the student does a few real steps on the records that were scored, or read.
    device, student = choose_device(config.student.device), config.student
    checkpoints = [run.checkpoints, *map(Path, config.train.roots)]
    if standing.plan is not None:
        student = begun_student(student, standing.plan, config.train, checkpoints)
    causal = load_student(student, standing.tokenizer, device)
    refuse_leaks(causal, student, standing.text.sequence_length, standing.packing)
    begun = training_done(standing.plan, student, config.train, checkpoints)
    of_all = standing.text.num_train_sequences
    num_steps = num_steps_on(of_all if begun.num_sequences is None else begun.num_sequences, config.train)
    cards = count_training_cards(config.train, config.student.device)
    probe = probe_training(causal, config.train, num_steps, standing.sequences, standing.records)

    estimate = Estimate(
        plan=None if standing.plan is None else standing.plan.hash,
        session_hours=session_hours,
        text=standing.text,
        capture=standing.capture,
        disk=standing.disk,
        training=TrainingPrice.of(
            standing.text,
            config.train,
            begun.steps if begun.stopped else num_steps,
            begun.steps,
            probe,
            session_hours,
            cards,
        ),
        environment=environment(device),
    )
    console = Console(stderr=True)
    for table in tables(estimate):
        console.print(table)
    return estimate
