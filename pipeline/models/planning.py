"""Before the teacher runs: text to sequences, a probe of the machine, and the plan that fixes both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from pipeline import files
from pipeline.cache.layout import RecordLayout
from pipeline.cache.plan import (
    DATA_REPORT_NAME,
    PLAN_NAME,
    SEQUENCES_NAME,
    TOKENIZER_FOLDER,
    Plan,
    cut_shards,
    in_turn,
)
from pipeline.cache.roots import SealedShard, find_sequences
from pipeline.cache.sequence_file import StoredSequences, most_bytes, write_sequences
from pipeline.cache.settings import CacheSettings
from pipeline.console import say, warn_once
from pipeline.data.documents import pinned, read_documents
from pipeline.data.packing import PACKING_VERSION, REPEATABLE_VERSIONS
from pipeline.data.planned_tokenizer import publish_tokenizer
from pipeline.data.preparation import prepare_sequences
from pipeline.data.report import DataReport
from pipeline.data.settings import DataSettings
from pipeline.data.tokenizer import Tokenizer
from pipeline.data.validation import usable_documents
from pipeline.errors import ConfigError, DamagedDataError, IdentityError, MachineError
from pipeline.models.cache_identity import make_identity, planned_data, planned_teacher, teachers_tokenizer
from pipeline.models.causal import CausalModel, refuse_longer
from pipeline.models.device import choose_device, choose_dtype, device_class, device_name
from pipeline.models.loading import load_config, load_model
from pipeline.models.probe import probe_capture
from pipeline.models.settings import StudentSettings, TeacherSettings
from pipeline.models.shard_room import ShardRoom
from pipeline.models.source import hub_commit, located
from pipeline.models.student import refuse_misfit, refuse_short
from pipeline.models.teacher import Teacher
from pipeline.pause import PauseRequest


@dataclass(frozen=True, slots=True)
class Opening:
    """What a plan begins with: the teacher, its tokenizer, and what they decide before any text is packed."""

    tokenizer: Tokenizer
    causal: CausalModel
    layout: RecordLayout
    data: DataSettings
    """with the commit of a hub dataset as their revision"""
    teacher: TeacherSettings
    """with the commit of a hub id as their revision"""
    packing: Literal["packed", "one_document"]


def open_teacher(data: DataSettings, teacher: TeacherSettings, cache: CacheSettings, pause: PauseRequest) -> Opening:
    """Load the teacher of a new cache; what can be refused without its weights is refused first.

    PausedError where a pause is due.
    """
    device = choose_device(teacher.device)
    dtype = choose_dtype(teacher.dtype, device)
    commit = hub_commit(teacher.model, teacher.revision)  # as for the data below: one commit, which the plan names
    teacher = teacher if commit is None else teacher.model_copy(update={"revision": commit})
    tokenizer, config = teacher_tokenizer(teacher)
    layout = layout_of(cache, tokenizer.vocab_size)
    data = pinned(data)  # what is read and what the plan names is one commit, whatever is uploaded meanwhile
    refuse_longer(data.sequence_length, config)
    _refuse_without_text(data, tokenizer)
    pause.check()

    causal = _load(teacher, dtype, device, tokenizer.vocab_size)
    pause.check()
    return Opening(tokenizer, causal, layout, data, teacher, _choose_packing(data, causal))


def teacher_tokenizer(teacher: TeacherSettings, with_weights: bool = True) -> tuple[Tokenizer, Any]:
    """The tokenizer, within the ids that the teacher's head has, and the teacher's config.

    ConfigError where either cannot be read, or (`with_weights`) the model has no weights.
    """
    tokenizer = Tokenizer.load(located(teacher.model), teacher.revision, teacher.trust_remote_code)
    config = load_config(teacher.model, teacher.revision, teacher.trust_remote_code, with_weights)
    return tokenizer.within(config.get_text_config().vocab_size), config


def plan_capture(
    folder: Path,
    data: DataSettings,
    teacher: TeacherSettings,
    cache: CacheSettings,
    pause: PauseRequest,
    student: StudentSettings | None = None,
) -> tuple[Plan, StoredSequences, Teacher]:
    """Make the plan of a new cache in `folder`; plan.json is written last, so a plan always has what it speaks of.

    A `student` that could not learn from it is refused before any text is packed. PausedError where a pause is due
    before the plan is written, or there is no room for a first shard beside the text; then nothing is planned.
    """
    if student is not None:  # or all of the cache would be in vain
        refuse_short(student, data.sequence_length)
    opening = open_teacher(data, teacher, cache, pause)
    tokenizer, causal, data, teacher = opening.tokenizer, opening.causal, opening.data, opening.teacher
    if student is not None:
        refuse_misfit(student, tokenizer, causal, data.sequence_length, opening.packing)
    sequences, report = prepare_sequences(data, tokenizer, opening.packing, pause)
    say("\n".join(report.summary_lines()))

    choice = probe_capture(causal, sequences, opening.layout, cache)
    shards = cut_shards(sequences.split, data.sequence_length, choice.shard_positions)
    room = ShardRoom(pause.output, sequences)
    room.learn(choice.bytes_per_scored, 1)
    room.check(shards, beside_bytes=most_bytes(sequences))
    pause.check()
    digest = write_sequences(folder / SEQUENCES_NAME, sequences)
    files.write_json(folder / DATA_REPORT_NAME, report.to_json())
    publish_tokenizer(tokenizer, folder / TOKENIZER_FOLDER)
    plan = Plan(
        identity=make_identity(data, teacher, cache, tokenizer),
        layout=opening.layout,
        sequence_length=data.sequence_length,
        num_sequences=sequences.num_sequences,
        sequences_digest=digest.xxh3_128,
        shards=shards,
        capture={
            "batch_size": choice.batch_size,
            "chunk_positions": choice.chunk_positions,
            "dtype": str(causal.dtype).removeprefix("torch."),
            "device_class": device_class(causal.device),
            "packing": opening.packing,
            "seed": cache.seed,
        },
    )
    plan.save(folder / PLAN_NAME)
    pause.note_progress()
    return plan, StoredSequences.of(plan, folder / SEQUENCES_NAME), _teacher(plan, causal)


def layout_of(cache: CacheSettings, vocab_size: int) -> RecordLayout:
    """What a record of this config holds, for a vocabulary."""
    sizes = (vocab_size, cache.head_size, cache.num_draws)
    return RecordLayout.for_vocabulary(*sizes, cache.draw_beta, cache.precision, cache.kind, cache.head_mass)


def load_teacher(plan: Plan, settings: TeacherSettings) -> Teacher:
    """The teacher of an earlier start's plan, in the precision and batches fixed there."""
    device = choose_device(settings.device)
    causal = _load(planned_teacher(plan, settings), _planned_dtype(plan, device), device, plan.vocab_size)
    causal.check_length(plan.sequence_length)
    return _teacher(plan, causal)


def note_other_machine(plan: Plan, shards: Mapping[int, SealedShard], here: Mapping[str, str]) -> None:
    """Say it where device or libraries are not those of the newest of the shards, or of the plan where none is sealed.

    `here` is the environment that seals made from now on will name.
    """
    made, before = "the plan", {"device_class": plan.capture["device_class"]}
    if sealed := in_turn(shard.span for shard in shards.values()):
        made, before = f"shard {sealed[-1].index + 1}", shards[sealed[-1].index].seal.environment
    other = [name for name in here if name != "python" and name in before and before[name] != here[name]]
    if other:
        there, now = (", ".join(f"{name.replace('_', ' ')} {at[name]}" for name in other) for at in (before, here))
        warn_once(
            f"{made} was made with {there}, this machine has {now}: shards made here agree with the others within "
            "rounding, not bit for bit; their seals name the machine"
        )


def planned_sequences(
    plan: Plan,
    folders: Sequence[Path],
    folder: Path,
    data: DataSettings,
    teacher: TeacherSettings,
    pause: PauseRequest,
) -> StoredSequences:
    """The sequences of a plan, from any of its folders; packed again, into `folder`, where the file is lost."""
    try:
        return StoredSequences.of(plan, find_sequences(plan, folders))
    except DamagedDataError as error:
        lost = str(error)
    packing_version = plan.identity["packing_version"]
    other_version = (
        f"Its sequences were packed as of version {packing_version}, and this program packs as of version "
        f"{PACKING_VERSION}. Bring {SEQUENCES_NAME} back from a copy, or start a new cache with --run-dir."
    )
    if packing_version not in REPEATABLE_VERSIONS:
        raise IdentityError(f"{lost}\n{other_version}")
    say(f"{lost}\nPacking the sequences again.")
    tokenizer, data = teachers_tokenizer(plan, planned_teacher(plan, teacher)), planned_data(plan, data)
    sequences, _ = prepare_sequences(data, tokenizer, plan.capture["packing"], pause, packing_version)
    digest = write_sequences(folder / SEQUENCES_NAME, sequences)
    if digest.xxh3_128 != plan.sequences_digest:
        files.remove_file(folder / SEQUENCES_NAME)
        gives = f"{data.source} {data.path or ''}: gives other sequences than the plan was made with"
        if packing_version != PACKING_VERSION:
            raise IdentityError(f"{gives}. {other_version}")
        raise IdentityError(
            f"{gives}; the text has changed. Bring back the text, or sequences.shard, or start a new cache with "
            "--run-dir."
        )
    pause.note_progress()
    return StoredSequences.of(plan, folder / SEQUENCES_NAME)


def _refuse_without_text(data: DataSettings, tokenizer: Tokenizer) -> None:
    """ConfigError where the source is not there, or holds no usable document: found by reading up to the first one."""
    if next(usable_documents(read_documents(data), data, DataReport()), None) is None:
        prepare_sequences(data, tokenizer, "one_document")  # says what was read and why none of it can be used
        raise AssertionError("a source without a usable document is refused")


def _planned_dtype(plan: Plan, device: torch.device) -> torch.dtype:
    planned = plan.capture["dtype"]
    try:
        return choose_dtype(planned, device)
    except MachineError as error:
        raise MachineError(
            f"teacher.dtype: the plan of this cache is in {planned}, and a cache never mixes two; this card, a "
            f"{device_name(device)}, has none of its own. Continue on a card of capability 8.0 or newer, or make a new "
            "plan for this one with --run-dir."
        ) from error


def _load(settings: TeacherSettings, dtype: torch.dtype, device: torch.device, vocab_size: int) -> CausalModel:
    model = load_model(settings.model, settings.revision, dtype, device, settings.trust_remote_code)
    return CausalModel(model, vocab_size, section="teacher")


def _teacher(plan: Plan, causal: CausalModel) -> Teacher:
    batch_size, chunk_positions = plan.capture["batch_size"], plan.capture["chunk_positions"]
    where = f"cuda ({device_name(causal.device)})" if causal.device.type == "cuda" else causal.device.type
    dtype = str(causal.dtype).removeprefix("torch.")
    say(
        f"teacher: {causal.architecture}, {_count(causal)} parameters, on {where} in {dtype}; the plan: "
        f"{batch_size:,} sequence{'s' * (batch_size > 1)} a pass, {chunk_positions:,} "
        f"position{'s' * (chunk_positions > 1)} at once"
    )
    return Teacher(causal, plan.layout, plan.capture["seed"], batch_size, chunk_positions)


def _count(causal: CausalModel) -> str:
    """How many parameters, in words: 1.24 billion, 135 million, 38,000."""
    count = sum(parameter.numel() for parameter in causal.model.parameters())
    for name, size in (("billion", 1e9), ("million", 1e6)):
        if count >= 0.9995 * size:
            return f"{count / size:.3g} {name}"
    return f"{count:,}"


def _choose_packing(data: DataSettings, causal: CausalModel) -> Literal["packed", "one_document"]:
    """Documents share a row only where the model keeps them apart."""
    if data.packing == "one_document":
        return "one_document"
    if causal.isolates_documents():
        return "packed"
    if data.packing == "packed":
        raise ConfigError(
            f"data.packing: packed, and this {causal.architecture} model lets a document see the one before it. Set "
            "data.packing to one_document (or auto)."
        )
    warn_once(f"{causal.architecture} models do not keep packed documents apart; each gets rows of its own")
    return "one_document"
