"""What a config asks of a machine: its models, text and cache as they are found, without loading any of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.cache.plan import Plan
from pipeline.cache.roots import earlier_plan
from pipeline.cache.settings import CacheSettings
from pipeline.cache.teacher_cache import TeacherCache
from pipeline.data.documents import refuse_other_columns
from pipeline.data.settings import DataSettings
from pipeline.data.source_files import is_local, source_files
from pipeline.data.tables import resolve_revision
from pipeline.distill.settings import TrainSettings
from pipeline.doctor.hub import Hub
from pipeline.errors import IdentityError, SadError
from pipeline.models.cache_identity import planned_teacher
from pipeline.models.planning import teacher_tokenizer
from pipeline.models.settings import Device, Dtype, StudentSettings, TeacherSettings
from pipeline.models.sizes import ModelSize, size_of_block, size_of_folder
from pipeline.models.source import downloaded_before, fetch_config, local_folder, weight_files
from pipeline.models.student import positions_key, refuse_other_tokenizer
from pipeline.output_limit import folder_bytes
from pipeline.pricing.rough import rough_bytes_per_token
from pipeline.runs import RunDirectory

_BYTES_A_TOKEN_OF_TEXT = 4  # of English with a usual vocabulary
_A_VOCABULARY = 2**16  # where it is not known: only one that is smaller than the head changes much
_READ_AS_TEXT = ("text", "jsonl", "stdlib")


@dataclass(frozen=True, slots=True)
class Found:
    """Something a config names: where it is, in words, or why it cannot be used."""

    where: str
    problem: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class AskedModel:
    """A model that a config names, or describes."""

    role: Literal["teacher", "student"]
    device: Device
    dtype: Dtype
    """of the teacher's weights, or of the student's products"""
    found: Found
    planned: bool = False
    """whether an earlier plan has fixed its precision"""
    size: ModelSize | None = None
    """None where it cannot be told"""
    positions_key: str | None = None
    """the config's key that makes it longer; None for a model that is as it is"""


@dataclass(frozen=True, slots=True)
class AskedCache:
    """The cache of a config: where it stands, and what is left to write of it."""

    found: Found
    planned: bool = False
    complete: bool = False
    dtype: Dtype | None = None
    """of the teacher, where a plan has fixed it"""
    vocab_size: int | None = None
    tokens_left: int | None = None
    """None where it cannot be told"""
    bytes_per_token: float | None = None
    measured: bool = False
    """whether that is of its own shards"""
    plan: Plan | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """All of it; what a stage does not need is None."""

    teacher: AskedModel | None = None
    student: AskedModel | None = None
    text: Found | None = None
    cache: AskedCache | None = None
    cache_settings: CacheSettings | None = None
    train_settings: TrainSettings | None = None
    sequence_length: int | None = None
    validation_fraction: float = 0.0
    """tokens to validate on, for each to train on"""
    trained_bytes: int = 0
    """what the run's training has left on disk already"""
    other_tokenizer: bool = False
    """whether the teacher's ids would mean other text to the student; False, too, where that cannot be told"""
    eval_teacher: Found | None = None
    """None where it is the teacher itself, or none is named"""
    baselines: dict[str, Found] = field(default_factory=dict)
    """by name; each may be trained by then"""


def look_at_config(
    data: DataSettings,
    teacher: TeacherSettings,
    cache: CacheSettings,
    student: StudentSettings,
    train: TrainSettings,
    run: RunDirectory,
    hub: Hub,
    made: tuple[dict[str, Any], int] | None = None,
    eval_teacher: str | None = None,
    baselines: Mapping[str, str] | None = None,
) -> Asked:
    """Everything a config names; the hub is asked only for what is named by a hub id and is not here.

    `made` is the block and the vocabulary of a teacher that the config itself has made, where none is there yet.
    """

    def beside(reference: str) -> Found:
        return _look_at_model(reference, None, teacher.trust_remote_code, hub)[0]

    standing = look_at_cache(cache, run)
    asked_teacher = None
    if not standing.complete and made is not None and not Path(teacher.model).is_dir():
        asked_teacher = _look_at_block(*made, teacher)
    elif not standing.complete:
        named = teacher if standing.plan is None else planned_teacher(standing.plan, teacher)
        asked_teacher = look_at_teacher(named, hub, standing.dtype)
    size = None if asked_teacher is None else asked_teacher.size
    vocab_size = standing.vocab_size or (size.vocab_size if size else None)
    text = None if standing.planned else look_at_text(data, hub)
    if not standing.planned:
        standing = dataclasses.replace(standing, tokens_left=_tokens_of(data, text))
    if standing.bytes_per_token is None:
        rough = rough_bytes_per_token(cache, vocab_size or _A_VOCABULARY)
        standing = dataclasses.replace(standing, bytes_per_token=rough)
    return Asked(
        teacher=asked_teacher,
        student=look_at_student(student, train, hub, vocab_size),
        text=text,
        cache=standing,
        cache_settings=cache,
        train_settings=train,
        sequence_length=data.sequence_length,
        validation_fraction=data.validation_fraction,
        other_tokenizer=have_other_tokenizers(teacher, student),
        trained_bytes=folder_bytes(run.student) if run.student.is_dir() else 0,
        eval_teacher=None if eval_teacher in (None, teacher.model) else beside(str(eval_teacher)),
        baselines={name: beside(folder) for name, folder in (baselines or {}).items()},
    )


def _look_at_block(block: dict[str, Any], vocab_size: int, teacher: TeacherSettings) -> AskedModel:
    """The teacher that a demo makes first."""
    found, size = Found("a model made first, of the block demo.teacher"), None
    try:
        size = size_of_block(block, vocab_size, where="demo.teacher")
    except SadError as error:
        found = Found(found.where, str(error))
    return AskedModel("teacher", teacher.device, teacher.dtype, found, size=size)


def look_at_teacher(settings: TeacherSettings, hub: Hub | None, planned: Dtype | None = None) -> AskedModel:
    """The teacher, in the precision of its settings or of an earlier plan; without a `hub` none is asked."""
    found, size = _look_at_model(settings.model, settings.revision, settings.trust_remote_code, hub)
    return AskedModel("teacher", settings.device, planned or settings.dtype, found, planned is not None, size)


def look_at_student(
    settings: StudentSettings, train: TrainSettings, hub: Hub | None, vocab_size: int | None = None
) -> AskedModel:
    """The student; a fresh one has the teacher's vocabulary. Without a `hub` none is asked."""
    if settings.model is not None:
        found, size = _look_at_model(settings.model, settings.revision, settings.trust_remote_code, hub)
        return AskedModel("student", settings.device, train.dtype, found, size=size)
    assert settings.config is not None
    found, size, key = Found(f"a fresh {settings.config['model_type']} model, made from student.config"), None, None
    try:
        rows = settings.config.get("vocab_size", vocab_size)  # the teacher's may count padding rows
        made = size_of_block({**settings.config, "vocab_size": 1 if rows is None else rows}, vocab_size=1)
        size, key = None if rows is None else made, positions_key(settings)
    except SadError as error:
        found = Found(found.where, str(error))
    return AskedModel("student", settings.device, train.dtype, found, size=size, positions_key=key)


def have_other_tokenizers(teacher: TeacherSettings, student: StudentSettings) -> bool:
    """Whether the tokenizers of two models that are here are not one; False where one is not here."""
    if student.model is None:
        return False
    try:
        folder, other = (
            local_folder(str(model.model)) or downloaded_before(str(model.model), model.revision)
            for model in (teacher, student)
        )
        if folder is None or other is None:
            return False
        here = teacher.model_copy(update={"model": str(folder), "revision": None})
        refuse_other_tokenizer("student.model", student, teacher_tokenizer(here, with_weights=False)[0])
    except IdentityError:
        return True
    except SadError:  # told where that model is looked at
        return False
    return False


def look_at_text(settings: DataSettings, hub: Hub) -> Found:
    """The text: its files counted and the first of its rows looked at, or its hub id asked for."""
    try:
        if is_local(settings):
            files = source_files(settings)
            refuse_other_columns(settings)
            size_bytes = sum(path.stat().st_size for path in files.values())
            what = f"the dataset in {settings.dataset}" if settings.source == "hub" else settings.source
            return Found(f"{len(files):,} files of {what}, {size_bytes:,} bytes")
        dataset = str(settings.dataset)
        if not hub.answers():
            return Found(f"{dataset} on the hub", f"is not here, and {hub.problem}", _how_to_bring(settings))
        try:
            resolve_revision(dataset, settings.revision)
        except SadError as error:
            return Found("", str(error), _how_to_bring(settings))
        return Found(f"{dataset} on the hub")
    except (SadError, OSError) as error:
        return Found("", str(error))


def look_at_cache(settings: CacheSettings, run: RunDirectory) -> AskedCache:
    """Where the cache of a run stands, its roots included."""
    roots = [Path(root) for root in settings.roots]
    try:
        if earlier_plan(run.cache, roots) is None:
            return AskedCache(Found("none yet"))
        with TeacherCache.open(run.cache, *roots) as cache:
            plan, seals = cache.plan, [shard.seal for shard in cache.shards.values()]
            left = sum(span.count for span in cache.missing) * plan.sequence_length
    except (SadError, OSError) as error:
        return AskedCache(Found("", str(error)), planned=True)
    bytes_per_token = None
    if seals:
        bytes_per_token = sum(seal.size_bytes for seal in seals) / sum(seal.num_positions for seal in seals)
    return AskedCache(
        Found(f"plan {plan.hash[:12]}, {len(seals)} of {len(plan.shards)} shards sealed"),
        planned=True,
        complete=not left,
        dtype=plan.capture["dtype"],
        vocab_size=plan.vocab_size,
        tokens_left=left,
        bytes_per_token=bytes_per_token,
        measured=bool(seals),
        plan=plan,
    )


def _look_at_model(
    reference: str, revision: str | None, trust_remote_code: bool, hub: Hub | None
) -> tuple[Found, ModelSize | None]:
    """Where a model is, and how large; of a hub id that is not here yet only its config is fetched."""
    where = reference
    try:
        folder = local_folder(reference)
        if folder is not None:
            weight_files(folder)
            where = f"folder {reference}"
        else:
            where = f"{reference}, downloaded before"
            folder = downloaded_before(reference, revision)
        if folder is None:
            where = f"{reference} on the hub, to be downloaded"
            if hub is None:
                return Found(where), None
            if not hub.answers():
                named = f"{reference} --revision {revision}" if revision else reference
                fix = f"where there is a network: hf download {named} --local-dir DIR; bring DIR here and name it"
                return Found(f"{reference} on the hub", f"is not here, and {hub.problem}", fix), None
            folder = fetch_config(reference, revision)
        return Found(where), size_of_folder(folder, trust_remote_code)
    except SadError as error:
        return Found(where, str(error)), None


def _how_to_bring(settings: DataSettings) -> str:
    """The way to a text of the hub: only what is read of it, for a whole data set may be thousands of times as much."""
    revision = f" --revision {settings.revision}" if settings.revision else ""
    command = f"hf download {settings.dataset} --repo-type dataset{revision}"
    if settings.subset is None:
        return f"where there is a network: {command} --local-dir DIR; bring DIR here, as data.dataset"
    example = settings.subset.replace("-", "/")
    return (
        f'where there is a network: {command} --include "PATTERN" --local-dir DIR, PATTERN being one that takes only '
        f"files of the subset {settings.subset}, split {settings.dataset_split} (where they lie is on the data set's "
        f'page; "{example}/*" is an example of a pattern); bring DIR here, as data.path, with data.source parquet, or '
        "jsonl, as the files are"
    )


def _tokens_of(data: DataSettings, text: Found | None) -> int | None:
    """About how many tokens a new cache will hold, those to validate on included; None where sizes do not tell it."""
    if data.max_tokens is not None:
        return round(data.max_tokens * (1 + data.validation_fraction))
    if data.source not in _READ_AS_TEXT or text is None or text.problem:
        return None
    files = source_files(data).values()
    if data.max_documents is not None or any(path.suffix == ".gz" for path in files):
        return None
    return sum(path.stat().st_size for path in files) // _BYTES_A_TOKEN_OF_TEXT
