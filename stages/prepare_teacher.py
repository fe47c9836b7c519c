"""The demo's preparatory step: a tokenizer and a small teacher, trained on the corpus because there is none to load."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.config import keys_of_kind
from pipeline.console import Progress, warn_once
from pipeline.data.bpe import train_tokenizer
from pipeline.data.documents import Document, read_documents, source_fingerprint
from pipeline.data.preparation import prepare_sequences
from pipeline.data.sequences import TRAIN, Sequences
from pipeline.data.settings import DataSettings
from pipeline.data.tokenizer import Tokenizer
from pipeline.distill.batching.batches import make_batch
from pipeline.distill.batching.order import DataOrder
from pipeline.distill.checkpoint_room import HERE, CheckpointRoom
from pipeline.distill.journal import Journal
from pipeline.distill.keeping.export import export_model
from pipeline.distill.learner import Learner
from pipeline.distill.saves import Saves
from pipeline.distill.settings import TrainSettings
from pipeline.doctor.examine import refuse_unfit
from pipeline.errors import mended_by
from pipeline.models.device import choose_device, choose_dtype
from pipeline.models.settings import StudentSettings
from pipeline.models.sizes import size_of_block
from pipeline.models.student import load_student
from pipeline.pause import PausedError, PauseRequest
from pipeline.runs import Outcome, Session, paused_without_progress
from stages.config import RunConfig

STAGE = "prepare-teacher"
_RECIPE = "recipe.json"
_TEXT = (
    "reading and tokenising the text take longer. Before the teacher's training nothing is kept",
    "take less text: data.max_documents",
)


def run(config: RunConfig, session: Session) -> Outcome:
    """Train the teacher, unless one with the same recipe is there; leaves it in teacher.model like anybody's."""
    with session.run.at_work(STAGE, config, session.command) as earlier:
        try:
            outcome = _prepare(config, session)
        except PausedError as stop:
            if session.pause.in_session or paused_without_progress(earlier):
                session.pause.refuse_in_vain(stop, *_TEXT)
            outcome = Outcome.paused("before the training began", stop)
        return session.finish(STAGE, outcome)


def _prepare(config: RunConfig, session: Session) -> Outcome:
    assert config.demo is not None
    demo, folder = config.demo, Path(config.teacher.model)
    data = _whole_corpus(config)
    settings = _settings(config)
    recipe = _recipe(config)
    if _was_made_by(recipe, folder):
        return Outcome("complete", f"the teacher in {folder} is kept", {})
    refuse_unfit(session.run.root, config.teacher.device)
    size_of_block(demo.teacher, demo.vocab_size, where="demo.teacher")  # refused before any text is read

    session.pause.check_beginning()

    # Its tokenizer and its text: all of the corpus, of which the cache later takes a part.
    tokenizer_folder = folder.with_name(folder.name + "-tokenizer")
    texts = _texts(data, session.pause)
    train_tokenizer(texts, demo.vocab_size, tokenizer_folder)
    tokenizer = Tokenizer.load(tokenizer_folder)
    sequences, _ = prepare_sequences(data, tokenizer, "packed", session.pause)

    # Its training: the student's own loop, on labels only.
    device = choose_device(config.teacher.device)
    causal = load_student(StudentSettings(config=demo.teacher), tokenizer, device)
    learner = Learner(causal, settings, demo.teacher_steps, choose_dtype("auto", device))
    trained_in = folder.with_name(folder.name + "-training")
    journal = Journal(
        trained_in, recipe, way_on=f"Put them back, or remove {trained_in}: the teacher is then made anew."
    )
    room = CheckpointRoom(session.pause.output, learner, tokenizer_folder, HERE)
    checkpoint = journal.find()
    done = 0 if checkpoint is None else checkpoint.step
    journal.tidy(checkpoint)
    try:
        room.check_beginning(journal.folder, ended=done == learner.num_steps)
    except PausedError as stop:
        return Outcome.paused_after_step(done, learner.num_steps, stop)
    journal.resume(checkpoint, learner)
    if paused := _train(session, settings, sequences, learner, journal, room, done):
        return paused
    if reason := room.shortage_of_model():  # only after a checkpoint: before it, the room for that one was there
        return Outcome.paused_after_step(learner.num_steps, learner.num_steps, reason)

    export_model(folder, causal.model, tokenizer, "# A small teacher, made by sad-pipeline\n")
    files.write_json(folder / _RECIPE, recipe)
    files.remove_folder(journal.folder)
    files.remove_folder(tokenizer_folder)
    parameters = sum(parameter.numel() for parameter in causal.model.parameters())
    message = f"{parameters / 1e6:.1f} million parameters after {demo.teacher_steps:,} steps, in {folder}"
    return Outcome("complete", message, {})


def _was_made_by(recipe: dict[str, Any], folder: Path) -> bool:
    path = folder / _RECIPE
    with mended_by("Remove it and run the same command again, which makes a teacher where none has this recipe."):
        return path.is_file() and files.read_json(path) == recipe


def teacher_folder(config: RunConfig, root: Path) -> Path:
    """Where the demo's teacher lies: teacher.model if it was made by this very recipe, else a folder of this run.

    Any other model in teacher.model is somebody's own, and must not be replaced.
    """
    named, own = Path(config.teacher.model), root / "teacher"
    if _was_made_by(_recipe(config), named):
        return named
    if named.is_dir() and named.resolve() != own.resolve():
        warn_once(f"{named}: was not made by this recipe, and is left alone; a teacher of this recipe is made in {own}")
    return own


def _train(
    session: Session,
    settings: TrainSettings,
    sequences: Sequences,
    learner: Learner,
    journal: Journal,
    room: CheckpointRoom,
    done: int,
) -> Outcome | None:
    """Steps until the last one (None), or a pause (its outcome)."""
    num_steps, length = learner.num_steps, sequences.sequence_length
    order = DataOrder([(0, int((sequences.split == TRAIN).sum()))], settings.seed, 1, settings.batch_size)
    step_positions, saves = settings.batch_size * length, Saves(journal, learner, room, session.pause)
    with Progress(STAGE, num_steps * step_positions, "tokens", done * step_positions) as progress:
        for step in range(done, num_steps):
            begun = time.monotonic()
            batch = make_batch(sequences.select(order.sequences_for_step(step)), None, learner.device)
            result = learner.learn(step, [batch], batch.num_scored)
            journal.log_skipped(step + 1, result, learner)
            journal.refuse_endless_skipping(step + 1, learner)
            progress.advance(step_positions, note=f"loss {result.loss:.3f}")
            session.pause.note_unit(time.monotonic() - begun)
            if reason := saves.after_step(step + 1, ended=step + 1 == num_steps):
                return Outcome.paused_after_step(step + 1, num_steps, reason)
    return None


def _texts(data: DataSettings, pause: PauseRequest) -> Iterator[str]:
    for document in read_documents(data):
        pause.check()
        if isinstance(document, Document):
            yield document.text


def _whole_corpus(config: RunConfig) -> DataSettings:
    return config.data.model_copy(update={"max_tokens": None})


def _settings(config: RunConfig) -> TrainSettings:
    """How the teacher is trained: like the student, on labels only, at its own length and rate; never of its seed."""
    assert config.demo is not None
    return TrainSettings(
        steps=config.demo.teacher_steps,
        batch_size=config.demo.teacher_batch_size,
        learning_rate=config.demo.teacher_learning_rate,
        ce_weight=1.0,
        kd_weight=0.0,
        balance=False,
        **config.train.model_dump(include={"warmup_steps", "weight_decay", "adam_betas", "checkpoint_every"}),
    )


def _recipe(config: RunConfig) -> dict[str, Any]:
    """What makes a teacher this one: with the same recipe it is kept."""
    assert config.demo is not None
    data = _whole_corpus(config)
    return {
        "vocab_size": config.demo.vocab_size,
        "model": config.demo.teacher,
        "train": keys_of_kind(_settings(config), "schedule"),
        "data": keys_of_kind(data, "identity"),
        "source": source_fingerprint(data),
    }
