"""What a cache is made from, compared at every start before anything is computed.

`identity` is what the plan keeps: the settings that shape bytes, the data's source, the tokenizer's behaviour and the
teacher's weights. A later start computes the cheap side of it again and refuses a difference, showing it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.cache.plan import TOKENIZER_FOLDER, Plan
from pipeline.cache.settings import CacheSettings
from pipeline.config import Section, differences, keys_of_kind
from pipeline.console import say, warn_once
from pipeline.data.documents import source_fingerprint
from pipeline.data.packing import PACKING_VERSION
from pipeline.data.planned_tokenizer import publish_tokenizer
from pipeline.data.settings import DataSettings
from pipeline.data.source_files import is_local
from pipeline.data.tokenizer import Tokenizer
from pipeline.errors import ConfigError, DamagedDataError, IdentityError, IncompleteInputError
from pipeline.models.cache_tokenizer import tokenizer_of
from pipeline.models.fingerprint import fingerprint, quick_fingerprint, quick_part
from pipeline.models.settings import TeacherSettings
from pipeline.models.source import commit_of, downloaded_before, is_hub_id, located

# Left to a probe unless they are set: an explicit value must be the one the plan was made with.
_PROBED = {
    "data.packing": "packing",
    "teacher.dtype": "dtype",
    "cache.batch_size": "batch_size",
    "cache.chunk_positions": "chunk_positions",
}
_UNSET = ("auto", None)


def make_identity(
    data: DataSettings, teacher: TeacherSettings, cache: CacheSettings, tokenizer: Tokenizer
) -> dict[str, Any]:
    """The identity of a new plan, with full hashes of the teacher's weights."""
    return {
        "settings": _settings(data, teacher, cache),
        "packing_version": PACKING_VERSION,
        "source": source_fingerprint(data),
        "tokenizer": tokenizer.fingerprint(),
        "teacher": fingerprint(teacher.model, teacher.revision),
    }


def planned_data(plan: Plan, data: DataSettings) -> DataSettings:
    """The settings with the plan's commit of a hub dataset, where they name no revision."""
    if data.revision is not None:
        return data
    return data.model_copy(update={"revision": plan.identity["source"].get("revision")})


def planned_teacher(plan: Plan, teacher: TeacherSettings) -> TeacherSettings:
    """The settings with the plan's commit of a teacher that is named by the same hub id, and by no revision."""
    hub = plan.identity["teacher"].get("hub")
    if hub is None or teacher.revision is not None or hub["model"] != teacher.model:
        return teacher
    return teacher.model_copy(update={"revision": hub["revision"]})


def refuse_other_cache(
    plan: Plan,
    plan_folder: Path,
    data: DataSettings,
    teacher: TeacherSettings,
    cache: CacheSettings,
    complete: bool = False,
) -> None:
    """Raise IdentityError, with every difference, where the plan was made from something else than is configured.

    What is not here any more (a text or a teacher of an earlier session) cannot be compared; that is said. A `complete`
    cache needs no teacher, and none is downloaded to be compared. How this version packs does not matter here: what is
    packed stays, and `planned_sequences` packs anew only as the plan says.
    """
    before, data, teacher = plan.identity, planned_data(plan, data), planned_teacher(plan, teacher)
    found = _settings_differences(plan, data, teacher, cache)
    found += _differences("source", before["source"], lambda: source_fingerprint(data))
    model = _at_hand(teacher) if complete or found else teacher
    if model is not None:
        found += _differences("tokenizer", before["tokenizer"], lambda: teachers_tokenizer(plan, model).fingerprint())
        weights = quick_part(before["teacher"])
        found += _differences("teacher", weights, lambda: quick_fingerprint(model.model, model.revision))
    also = ", and leave this one out of cache.roots" if cache.roots else ""
    _refuse(
        found, plan_folder, f"Put the settings back, or choose another place for the new cache with --run-dir{also}."
    )


def refuse_other_settings(
    plan: Plan, plan_folder: Path, data: DataSettings, teacher: TeacherSettings, cache: CacheSettings
) -> None:
    """The part of `refuse_other_cache` that needs no text, no teacher and no network: for who only reads a cache.

    Where the text and the teacher lie is not compared, and neither has to be here any more.
    """
    found = _settings_differences(plan, data, teacher, cache)
    _refuse(found, plan_folder, "Put the settings back, or name the cache that has them: --run-dir or cache.roots.")


def _refuse(found: list[str], plan_folder: Path, fix: str) -> None:
    if found:
        raise IdentityError(
            f"{plan_folder}: this cache was planned from something else than is configured now, and a cache never "
            "mixes two.\n" + "\n".join(found) + f"\n{fix}"
        )


def restore_tokenizer(plan: Plan, folders: Sequence[Path], folder: Path, teacher: TeacherSettings) -> None:
    """See that the plan's tokenizer is beside it: written into `folder` again where it is lost or another."""
    try:
        tokenizer_of(plan, folders)
    except (DamagedDataError, IncompleteInputError) as error:
        say(f"{error}\nWriting the tokenizer again.")
        publish_tokenizer(teachers_tokenizer(plan, planned_teacher(plan, teacher)), folder / TOKENIZER_FOLDER)


def _differences(name: str, planned: dict[str, Any], describe: Callable[[], dict[str, Any]]) -> list[str]:
    """Of one part of the identity; none, and that is said, where it cannot be described any more."""
    try:
        return differences({name: planned}, {name: describe()})
    except ConfigError as error:
        warn_once(f"the {name} cannot be compared with the plan's, which stands. {error}")
        return []


def _at_hand(teacher: TeacherSettings) -> TeacherSettings | None:
    """The teacher as it lies on this machine; None where its files would have to be downloaded."""
    if not is_hub_id(teacher.model):
        return teacher
    folder = downloaded_before(teacher.model, teacher.revision)
    return None if folder is None else teacher.model_copy(update={"revision": commit_of(folder) or teacher.revision})


def _settings_differences(plan: Plan, data: DataSettings, teacher: TeacherSettings, cache: CacheSettings) -> list[str]:
    """Of settings that both the plan's version and this one know as shaping a cache."""
    planned, now = plan.identity["settings"], _settings(data, teacher, cache)
    shared = planned.keys() & now.keys()
    found = differences({key: planned[key] for key in shared}, {key: now[key] for key in shared})
    return found + _probed_differences(plan, data, teacher, cache)


def _settings(data: DataSettings, teacher: TeacherSettings, cache: CacheSettings) -> dict[str, Any]:
    """Key -> value; where a data set lies is none, if that is a folder: what is in it belongs to the source."""
    sections: tuple[tuple[str, Section], ...] = (("data", data), ("teacher", teacher), ("cache", cache))
    keys = {key: value for name, part in sections for key, value in keys_of_kind(part, "identity", f"{name}.").items()}
    left_out = {*_PROBED, *(["data.dataset"] if data.source == "hub" and is_local(data) else [])}
    return {key: value for key, value in keys.items() if key not in left_out}


def _probed_differences(plan: Plan, data: DataSettings, teacher: TeacherSettings, cache: CacheSettings) -> list[str]:
    now = {
        "data.packing": data.packing,
        "teacher.dtype": teacher.dtype,
        "cache.batch_size": cache.batch_size,
        "cache.chunk_positions": cache.chunk_positions,
    }
    explicit = {key: value for key, value in now.items() if value not in _UNSET}
    return differences({key: plan.capture[_PROBED[key]] for key in explicit}, explicit)


def teachers_tokenizer(plan: Plan, teacher: TeacherSettings) -> Tokenizer:
    """The tokenizer at the teacher's place, as far as the plan's vocabulary goes."""
    return Tokenizer.load(located(teacher.model), teacher.revision, teacher.trust_remote_code).within(plan.vocab_size)
