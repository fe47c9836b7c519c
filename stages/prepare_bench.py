"""What benches measure on, made by the other stages once and kept: a teacher, caches of it, a student."""

from __future__ import annotations

from pipeline.cache.teacher_cache import TeacherCache
from pipeline.config import changed
from pipeline.data.tokenizer import Tokenizer
from pipeline.distill.settings import WITHOUT_TEACHER
from pipeline.models import CausalModel
from pipeline.models.device import choose_device, choose_dtype
from pipeline.models.loading import load_model
from pipeline.models.settings import StudentSettings, TeacherSettings
from pipeline.runs import RunDirectory, Session
from stages import cache_teacher, prepare_teacher, train_student
from stages.config import RunConfig

STUDENT_STEPS = 100


def with_teacher(config: RunConfig, session: Session) -> RunConfig:
    """The config with a teacher that is there: its own, or the one its demo section makes once and keeps.

    PausedError where its training is paused; the same command continues it.
    """
    if config.demo is None:
        return config
    folder = prepare_teacher.teacher_folder(config, session.run.root)
    config = changed(config, teacher={"model": str(folder)})
    prepare_teacher.run(config, session).refuse_pause()
    return config


def with_student(config: RunConfig, session: Session, cache: TeacherCache) -> StudentSettings:
    """The config's student where it exists; a fresh one after some steps on the labels of a cache, made once and kept.

    PausedError where its training is paused.
    """
    if config.student.config is None:
        return config.student
    run = RunDirectory(session.run.root / "student")
    schedule = WITHOUT_TEACHER | {"steps": STUDENT_STEPS, "epochs": None, "roots": []}
    settings = changed(config, cache={"roots": [str(cache.folders[0])]}, train=schedule)
    train_student.run(settings, Session(run, session.pause, session.command)).refuse_pause()
    return StudentSettings(model=str(run.model))


def load_scorer(settings: TeacherSettings | StudentSettings, tokenizer: Tokenizer) -> CausalModel:
    """A model on CPU in float32, over the vocabulary of a tokenizer."""
    assert settings.model is not None
    device = choose_device("cpu")
    dtype = choose_dtype("float32", device)
    model = load_model(settings.model, settings.revision, dtype, device, settings.trust_remote_code)
    return CausalModel(model, tokenizer.vocab_size, section="teacher")


def captured(config: RunConfig, session: Session, name: str) -> TeacherCache:
    """A sealed cache of this config in the folder `name` of the run, made once and kept.

    Roots of the config are left out: what is measured is made here. PausedError where making it is paused; a refusal
    where the kept one was made from something else.
    """
    run = RunDirectory(session.run.root / name)
    cache_teacher.run(changed(config, cache={"roots": []}), Session(run, session.pause, session.command)).refuse_pause()
    return TeacherCache.open(run.cache)
