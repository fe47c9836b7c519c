"""Where a run stands and what its cache will still cost: nothing planned yet, a part sealed, or all of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.cache.plan import Plan
from pipeline.cache.records import Records
from pipeline.cache.roots import find_sequences
from pipeline.cache.settings import CacheSettings
from pipeline.cache.teacher_cache import TeacherCache
from pipeline.data.sequences import TRAIN, VALIDATION, Sequences
from pipeline.data.settings import DataSettings
from pipeline.data.survey import COUNTED, survey
from pipeline.data.tokenizer import Tokenizer
from pipeline.distill.guards.early_stopping import Waiting
from pipeline.distill.keeping.checkpoint import newest_checkpoint
from pipeline.distill.keeping.identity import is_of, shards_in, training_identity
from pipeline.distill.settings import TrainSettings
from pipeline.models import Teacher
from pipeline.models.cache_identity import refuse_other_cache
from pipeline.models.cache_tokenizer import tokenizer_of
from pipeline.models.planning import load_teacher, open_teacher
from pipeline.models.probe import probe_capture
from pipeline.models.settings import StudentSettings, TeacherSettings
from pipeline.models.sharing import count_busy_cards
from pipeline.pause import PauseRequest
from pipeline.pricing.capture import CaptureProbe, probe_teacher, sequence_bytes
from pipeline.pricing.estimate import CapturePrice, DiskPrice, TextSize, price_disk

_RECORDS_READ = 64  # sequences of a finished cache that a training is tried on


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """A cache as it is and will be, and some of its records to try a training on."""

    plan: Plan | None
    text: TextSize
    capture: CapturePrice
    disk: DiskPrice
    tokenizer: Tokenizer
    packing: str
    sequences: Sequences
    """a few, with their records"""
    records: Records


def price_new_cache(
    data: DataSettings, teacher: TeacherSettings, cache: CacheSettings, gigabytes: float, session_hours: float
) -> Standing:
    """Do what planning does up to its probe, on the beginning of the text, and keep none of it on disk."""
    opening = open_teacher(data, teacher, cache, PauseRequest())
    found = survey(opening.data, opening.tokenizer, opening.packing)
    choice = probe_capture(opening.causal, found.sample, opening.layout, cache)
    sizes = (choice.batch_size, choice.chunk_positions)
    probe = probe_teacher(
        Teacher(opening.causal, opening.layout, cache.seed, *sizes),
        found.sample,
        np.arange(found.sample.num_sequences),
    )
    text = TextSize(
        num_tokens=found.num_positions,
        num_train_sequences=found.num_train,
        num_validation_sequences=found.num_validation,
        sequence_length=found.sample.sequence_length,
        basis=found.basis,
        bytes_per_token=sequence_bytes(found.sample),
        counted_share=found.tokens_per_position,
    )
    cards = count_busy_cards(teacher.workers, teacher.device)
    capture = CapturePrice.of(text, text.num_tokens, 0, probe, probe.bytes_per_position, session_hours, sizes, cards)
    return Standing(
        plan=None,
        text=text,
        capture=capture,
        disk=price_disk(gigabytes, text, capture, probe, False, choice.shard_positions),
        tokenizer=opening.tokenizer,
        packing=opening.packing,
        sequences=probe.sequences,
        records=probe.records,
    )


def price_planned_cache(
    plan: Plan,
    folders: list[Path],
    places: list[Path],
    settings: tuple[DataSettings, TeacherSettings, CacheSettings],
    gigabytes: float,
    session_hours: float,
) -> Standing:
    """Price what is not sealed, by the bytes of what is; `places` are the run's cache folder and its other roots.

    IdentityError where the settings are not those of the plan.
    """
    with TeacherCache.open(*places) as cache:
        refuse_other_cache(plan, folders[0], *settings, complete=cache.complete)
        probe = _probe_pending(cache, settings[1])
        sequences, records = (probe.sequences, probe.records) if probe else _read_some(cache)
        sealed_bytes, bytes_per_token = _sealed(cache, probe)
        kept = [shard.path for shard in cache.shards.values()] + [find_sequences(plan, folders)]
        elsewhere_bytes = sum(path.stat().st_size for path in kept if not path.is_relative_to(places[0]))
    num_train, num_validation = (sum(span.count for span in plan.spans(split)) for split in (TRAIN, VALIDATION))
    num_tokens = plan.num_sequences * plan.sequence_length
    text = TextSize(
        num_tokens=num_tokens,
        num_train_sequences=num_train,
        num_validation_sequences=num_validation,
        sequence_length=plan.sequence_length,
        basis=COUNTED,
        bytes_per_token=find_sequences(plan, folders).stat().st_size / num_tokens,
    )
    left = sum(span.count for span in cache.missing) * plan.sequence_length
    sizes = (plan.capture["batch_size"], plan.capture["chunk_positions"])
    cards = count_busy_cards(settings[1].workers, settings[1].device)
    capture = CapturePrice.of(
        text, left, sealed_bytes, probe, bytes_per_token, session_hours, sizes, cards, elsewhere_bytes
    )
    return Standing(
        plan=plan,
        text=text,
        capture=capture,
        disk=price_disk(
            gigabytes, text, capture, probe, True, max(s.count for s in plan.shards) * plan.sequence_length
        ),
        tokenizer=tokenizer_of(plan, folders),
        packing=plan.capture["packing"],
        sequences=sequences,
        records=records,
    )


@dataclass(frozen=True, slots=True)
class Done:
    """How far a training is."""

    steps: int = 0
    stopped: bool = False
    """whether it stopped early there"""
    num_sequences: int | None = None
    """that it learns from, where it is frozen to some of the shards"""


def training_done(plan: Plan | None, student: StudentSettings, train: TrainSettings, folders: Iterable[Path]) -> Done:
    """What a checkpoint of this very training in one of the folders says; nothing done where there is none."""
    if plan is None:
        return Done()
    own = training_identity(plan, student, train)
    # Nothing is let go of for a price: their weights need not be read.
    newest = newest_checkpoint((), lambda state: is_of(state, own), roots=folders, whole=False)
    if newest is None:
        return Done()
    frozen, num_sequences = newest.state["training"].get("frozen_shards"), None
    if frozen is not None:
        of_training = set(shards_in(frozen))
        num_sequences = sum(s.count for s in plan.shards if s.index in of_training and s.split == TRAIN)
    return Done(newest.step, Waiting.of(newest.state).stopped, num_sequences)


def _probe_pending(cache: TeacherCache, settings: TeacherSettings) -> CaptureProbe | None:
    """Score a few of the sequences that are left; None, and no teacher loaded, where none is."""
    if cache.complete:
        return None
    rows = np.concatenate([np.arange(span.first, span.stop) for span in cache.missing])
    return probe_teacher(load_teacher(cache.plan, settings), cache.sequences, rows)


def _read_some(cache: TeacherCache) -> tuple[Sequences, Records]:
    return cache.read(np.arange(min(_RECORDS_READ, cache.sealed[0].count)) + cache.sealed[0].first)


def _sealed(cache: TeacherCache, probe: CaptureProbe | None) -> tuple[int, float]:
    """Bytes sealed, and bytes a position: of what is sealed, else of what was scored now."""
    seals = [shard.seal for shard in cache.shards.values()]
    size_bytes = sum(seal.size_bytes for seal in seals)
    if size_bytes:
        return size_bytes, size_bytes / sum(seal.num_positions for seal in seals)
    assert probe is not None, "nothing is sealed, so something was left to score"
    return 0, probe.bytes_per_position
