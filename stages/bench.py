"""bench: what the library costs on this machine, in time, memory and bytes, each beside its goal."""

from __future__ import annotations

from pipeline.benches.angles import bench_angles
from pipeline.benches.capture import bench_capture
from pipeline.benches.codec import KINDS, bench_codec, bench_kind
from pipeline.benches.head import bench_head
from pipeline.benches.head_cases import HeadSizes
from pipeline.benches.reader import bench_reader
from pipeline.benches.results import Result
from pipeline.benches.shapes import known_shape
from pipeline.benches.train import TrainSizes, bench_train
from pipeline.cache.settings import DEFAULTS
from pipeline.config import changed
from pipeline.distill.settings import TemperatureSettings
from pipeline.models.cache_tokenizer import tokenizer_of
from pipeline.models.device import choose_device
from pipeline.models.settings import Device
from pipeline.runs import Session
from stages.config import RunConfig
from stages.prepare_bench import captured, load_scorer, with_student, with_teacher

CODEC_TOKENS, READER_TOKENS = 40_000, 140_000
_RIGHT_FOR_ALL = TemperatureSettings(start=1.0, end=1.0)  # whatever a cache's kind
READER_LENGTH = 1024


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
        of_kind = changed(config, cache={"kind": kind, **DEFAULTS[kind]}, train={"temperature": _RIGHT_FOR_ALL})
        caches[kind] = captured(of_kind, session, kind)
    results = bench_codec(caches["topk"])
    for kind in KINDS:
        results += bench_kind(caches[kind])
    tokenizer = tokenizer_of(caches["topk"].plan, caches["topk"].folders)
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
