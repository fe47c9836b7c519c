"""bench: what the library costs on this machine, in time, memory and bytes, each beside its goal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.benches.angles import bench_angles
from pipeline.benches.capture import bench_capture
from pipeline.benches.codec import KINDS, bench_codec, bench_kind
from pipeline.benches.head import bench_head
from pipeline.benches.head_cases import HeadSizes
from pipeline.benches.machine import describe_machine
from pipeline.benches.reader import bench_reader
from pipeline.benches.results import Result, to_json
from pipeline.benches.shapes import known_shape
from pipeline.benches.train import TrainSizes, bench_train
from pipeline.cache.roots import find_tokenizer
from pipeline.cache.settings import DEFAULTS
from pipeline.cache.teacher_cache import TeacherCache
from pipeline.data.planned_tokenizer import planned_tokenizer
from pipeline.data.tokenizer import Tokenizer
from pipeline.models import CausalModel
from pipeline.models.device import choose_device, choose_dtype
from pipeline.models.loading import load_model
from pipeline.models.settings import Device, StudentSettings, TeacherSettings
from pipeline.pause import PausedError
from pipeline.runs import RunDirectory, Session
from stages import cache_teacher, prepare_teacher, train_student
from stages.config import RunConfig

CODEC_TOKENS, READER_TOKENS = 40_000, 140_000
READER_LENGTH = 1024
STUDENT_STEPS = 100


def head(sizes: HeadSizes, device: Device, rounds: int) -> list[Result]:
    """The distillation loss against plain cross-entropy, whole logits, and PyTorch's own chunked cross-entropy."""
    return bench_head(sizes, choose_device(device), rounds)


def codec(config: RunConfig, session: Session) -> list[Result]:
    """Bytes a position and what rounding costs, on records of the config's teacher that are kept bit for bit; and the
    bytes of the other kinds of record, of the same text."""
    config = with_teacher(config, session)
    config = changed(config, data={"max_tokens": CODEC_TOKENS})
    exact = changed(config, cache={"kind": "topk", "precision": "lossless"})
    caches = {"topk": captured(exact, session, "codec")}
    for kind in KINDS:
        caches[kind] = captured(changed(config, cache={"kind": kind, **DEFAULTS[kind]}), session, kind)
    results = bench_codec(caches["topk"])
    for kind in KINDS:
        results += bench_kind(caches[kind])
    tokenizer = planned_tokenizer(find_tokenizer(caches["topk"].folders), caches["topk"].plan.identity["tokenizer"])
    student = with_student(exact, session, caches["topk"])
    results += bench_angles(caches, load_scorer(config.teacher, tokenizer), load_scorer(student, tokenizer))
    for cache in caches.values():
        cache.close()
    return results


def reader(config: RunConfig, session: Session, rounds: int) -> list[Result]:
    """How fast records are read back, on a cache of the config's teacher in sequences of 1,024 and small shards."""
    config = with_teacher(config, session)
    data = {"sequence_length": READER_LENGTH, "max_tokens": READER_TOKENS}
    shards = {"precision": "fine", "shard_positions": min(config.cache.shard_positions, READER_TOKENS // 4)}
    with captured(changed(config, data=data, cache=shards), session, "reader") as cache:
        return bench_reader(cache, session.run.root / "reader", config.train.window_shards, rounds)


def capture(session: Session, device: Device, shape: str | None, **sizes: int) -> list[Result]:
    """Capture beside the teacher's forward pass and its logits, with a random model of a usual size."""
    place = choose_device(device)
    shape = known_shape(shape or {"cpu": "smollm2-135m", "cuda": "llama-1b"}[place.type])
    return bench_capture(session.run.root / "capture", place, shape, **sizes)


def train(session: Session, device: Device, sizes: TrainSizes) -> list[Result]:
    """Training from a cache beside Trainer, labels only, and distillation with the teacher in memory."""
    known_shape(sizes.student)
    known_shape(sizes.teacher)
    return bench_train(session.run.root / "train", choose_device(device), sizes)


# ------------------------------------------------------------------ what benches need


def with_teacher(config: RunConfig, session: Session) -> RunConfig:
    """The config with a teacher that is there: its own, or the one its demo section makes once and keeps.

    PausedError where its training is paused; the same command continues it.
    """
    if config.demo is None:
        return config
    folder = prepare_teacher.teacher_folder(config, session.run.root)
    config = changed(config, teacher={"model": str(folder)})
    outcome = prepare_teacher.run(config, session)
    if outcome.state == "paused":
        raise PausedError(outcome.message)
    return config


def with_student(config: RunConfig, session: Session, cache: TeacherCache) -> StudentSettings:
    """The config's student where it exists; a fresh one after some steps on the labels of a cache, made once and kept.

    PausedError where its training is paused.
    """
    if config.student.config is None:
        return config.student
    run = RunDirectory(session.run.root / "student")
    schedule: dict[str, Any] = {"steps": STUDENT_STEPS, "epochs": None, "ce_weight": 1.0, "kd_weight": 0.0, "roots": []}
    settings = changed(config, cache={"roots": [str(cache.folders[0])]}, train=schedule)
    outcome = train_student.run(settings, Session(run, session.pause, session.command))
    if outcome.state == "paused":
        raise PausedError(outcome.message)
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
    outcome = cache_teacher.run(changed(config, cache={"roots": []}), Session(run, session.pause, session.command))
    if outcome.state == "paused":
        raise PausedError(outcome.message)
    return TeacherCache.open(run.cache)


def changed(config: RunConfig, **sections: dict[str, Any]) -> RunConfig:
    """The config with some keys of some sections changed."""
    update = {name: getattr(config, name).model_copy(update=changes) for name, changes in sections.items()}
    return config.model_copy(update=update)


def show(title: str, results: Sequence[Result]) -> dict[str, Any]:
    """Print figures and goals as a table on stderr; returns them with the machine, for JSON."""
    machine = describe_machine()
    described = to_json(machine, results)
    table = Table(title=title, caption=f"{machine['cpu']}, {machine['threads']} threads; {machine['gpu'] or 'no GPU'}")
    table.add_column("figure", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit")
    table.add_column("goal")
    for result in results:
        met = "" if result.ok is None else "  met" if result.ok else "  missed"
        table.add_row(result.name, format_value(result.value), result.unit, f"{result.goal or ''}{met}")
    Console(stderr=True).print(table)
    return described


def format_value(value: float) -> str:
    """Four digits, or all of a large whole number."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
