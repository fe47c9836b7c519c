"""Checking every byte of a cache against its seals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from pipeline import files
from pipeline.cache.codec import codec_of
from pipeline.cache.passed_over import PASSED_OVER_NAME, is_passed_over
from pipeline.cache.plan import (
    DATA_REPORT_NAME,
    PLAN_NAME,
    SEQUENCES_NAME,
    SHARDS_FOLDER,
    TOKENIZER_FOLDER,
    Plan,
)
from pipeline.cache.records import Records, check_records
from pipeline.cache.roots import (
    SealedShard,
    find_files,
    find_passed_over,
    find_plan,
    find_tokenizer,
    plans_below,
    seal_beside,
    seals_below,
)
from pipeline.cache.seal import REPAIR
from pipeline.cache.sequence_file import StoredSequences
from pipeline.cache.shard import ShardFile
from pipeline.cache.told import PLAN_FIX
from pipeline.cache.unread import refused_place, size_on_disk, unread_errors
from pipeline.cache.writer import shard_attributes
from pipeline.console import Progress, say
from pipeline.errors import DamagedDataError, IdentityError, NumericsError, SadError, StorageError
from pipeline.refusals import is_of_too_many_files

_BESIDE_THE_PLAN = {DATA_REPORT_NAME, TOKENIZER_FOLDER}
_BLOCK_POSITIONS = 2**14


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a cache."""

    path: Path
    what: str
    fix: str
    repairable: bool = False
    """whether removing the shard makes it good: it is then computed again"""

    @classmethod
    def of(cls, path: Path, error: Exception, fix: str, repairable: bool = False) -> Self:
        """What an error says of a path; the fix that it names itself gives way to this one."""
        return cls(path, what_of(path, error), fix, repairable)

    @classmethod
    def advised(cls, path: Path, error: Exception) -> Self:
        """What an error says of a path; its last sentence is the fix."""
        what, _, fix = _without_place(path, error).rpartition(". ")
        return cls(path, what, fix.removesuffix("."))

    @classmethod
    def unread(cls, path: Path, error: StorageError) -> Self:
        """That a file cannot be read now: it may be whole, and is no damage to remove.

        Raises the error where too many files are open: that says nothing of the file.
        """
        if is_of_too_many_files(error):
            raise error
        return cls.advised(refused_place(path, error.__cause__), error)

    def __str__(self) -> str:
        return f"{self.path}: {self.what}. {self.fix}"


def what_of(path: Path, error: Exception) -> str:
    """The middle of an error's message, without the place and the next step, which a Problem says itself."""
    return _without_place(path, error).partition(". Run `sad-pipeline")[0]


def _without_place(path: Path, error: Exception) -> str:
    return str(error).removeprefix(f"{path}: ").removeprefix(f"{path}/")


def verify_cache(
    path: Path,
    roots: Sequence[Path] = (),
    read_tokenizer: Callable[[Path, dict[str, Any]], object] | None = None,
    read_data_report: Callable[[Path], object] | None = None,
) -> list[Problem]:
    """Everything wrong with the cache below `path` and the other roots; empty if every byte is as it was sealed.

    `read_tokenizer` is given the tokenizer's folder and what the plan says of it, and raises where they differ;
    `read_data_report` is given its file, and raises where it is damaged.
    Shards that are not sealed yet are no problem: they are absent. IncompleteInputError where there is no plan at all.
    """
    folders_above = [path, *roots]
    try:
        plan, folders = find_plan(folders_above)
    except (DamagedDataError, IdentityError) as error:
        return [Problem.of(path, error, "Nothing else can be checked without the plan")]
    problems = [*_check_other_plans(roots)]
    sequences = _check_sequences(plan, folders, problems)
    if read_data_report is not None:
        problems += _check_data_report(folders, read_data_report)
    if read_tokenizer is not None:
        problems += _check_tokenizer(plan, folders, read_tokenizer)
    shards = _check_seals(plan, folders_above, problems)
    with Progress("verify", sum(shard.seal.size_bytes for shard in shards), "bytes") as progress:
        for shard in shards:
            problems += _check_shard(plan, shard, sequences)
            progress.advance(shard.seal.size_bytes)
    problems += _differing_copies(shards)
    for folder in folders:
        problems += _unknown_files(folder, plan)
    return problems


def _check_other_plans(roots: Sequence[Path]) -> Iterator[Problem]:
    """Plans of the other roots that cannot be read, and are passed over."""
    for path, plan in (found for root in roots for found in plans_below(root)):
        if isinstance(plan, SadError):
            what = what_of(path, plan).removesuffix(f". {PLAN_FIX}")
            yield Problem(path, what, "It is passed over; if it came with this cache, copy it once more")


def _check_sequences(plan: Plan, folders: Sequence[Path], problems: list[Problem]) -> StoredSequences | None:
    paths = [folder / SEQUENCES_NAME for folder in folders]
    path = paths[0]
    try:
        # also one that readers pass over for a whole one
        path = next((path for path in paths if size_on_disk(path) is not None), path)
        sequences = StoredSequences.of(plan, path)
        sequences.check_chunks()
        return sequences
    except StorageError as error:
        problems.append(Problem.unread(path, error))
        return None
    except SadError as error:
        problems.append(Problem.of(path, error, "Run `sad-pipeline cache-teacher`, which packs them again"))
        return None


def _check_data_report(folders: Sequence[Path], read_data_report: Callable[[Path], object]) -> Iterator[Problem]:
    for path in (folder / DATA_REPORT_NAME for folder in folders):
        try:
            with unread_errors(path):
                if path.is_file():
                    read_data_report(path)
        except StorageError as error:
            yield Problem.unread(path, error)
        except DamagedDataError as error:
            yield Problem.advised(path, error)


def _check_tokenizer(
    plan: Plan, folders: Sequence[Path], read_tokenizer: Callable[[Path, dict[str, Any]], object]
) -> Iterator[Problem]:
    path = folders[0] / TOKENIZER_FOLDER
    try:
        with unread_errors(path):
            path = find_tokenizer(folders)
            read_tokenizer(path, plan.identity.get("tokenizer") or {})
    except StorageError as error:
        yield Problem.unread(path, error)
    except SadError as error:
        if is_of_too_many_files(error):
            raise
        yield Problem.advised(path, error)


def _check_seals(plan: Plan, roots: Sequence[Path], problems: list[Problem]) -> list[SealedShard]:
    """All sealed shards of the plan, in all roots; seals that cannot be read, or stand in the wrong cache, are said."""
    shards: dict[Path, SealedShard] = {}
    damaged = find_passed_over(roots)
    own = {path.parent.resolve() / SHARDS_FOLDER for root in roots for path in find_files(root, PLAN_NAME)}
    for above, path, seal in ((root, *found) for root in roots for found in seals_below(root)):
        try:
            if isinstance(seal, SadError):
                raise seal
            if seal.plan_hash != plan.hash and path.parent.resolve() not in own:
                continue
            span = seal.check_against(plan, path)
            shard = SealedShard(span, seal, path.with_name(span.shard_name))
            if above != roots[0] and is_passed_over(shard.path, damaged):
                say(f"note: {shard.path}: is damaged, and passed over")
                continue
            shards.setdefault(path.resolve(), shard)
        except StorageError as error:
            problems.append(Problem.unread(path, error))
        except DamagedDataError as error:
            problems.append(Problem.of(path, error, REPAIR, repairable=True))
        except IdentityError as error:
            problems.append(Problem.advised(path, error))
    return list(shards.values())


def _check_shard(plan: Plan, shard: SealedShard, sequences: StoredSequences | None) -> Iterator[Problem]:
    """What is wrong with one shard: its size and hash, then every chunk of it."""
    try:
        for what in _damage(plan, shard, sequences):
            yield Problem(shard.path, what, REPAIR, repairable=True)
    except StorageError as error:
        yield Problem.unread(shard.path, error)
    except (SadError, ValueError, OSError) as error:
        yield Problem.of(shard.path, error, REPAIR, repairable=True)


def _damage(plan: Plan, shard: SealedShard, sequences: StoredSequences | None) -> Iterator[str]:
    shard.check_size()
    with unread_errors(shard.path):
        found = files.digest_file(shard.path)
    if found.xxh3_128 != shard.seal.xxh3_128:
        yield f"its bytes have xxh3-128 {found.xxh3_128}, its seal names {shard.seal.xxh3_128}"
    yield from _check_records(plan, shard, sequences)


def _check_records(plan: Plan, shard: SealedShard, sequences: StoredSequences | None) -> Iterator[str]:
    span, codec = shard.span, codec_of(plan)
    schema, size = codec.schema(span.count), codec.chunk_sequences
    step = size * max(1, _BLOCK_POSITIONS // (plan.sequence_length * size))
    with ShardFile(shard.path, schema, shard_attributes(plan, span)) as file:
        for start in range(0, span.count, step):
            stop = min(start + step, span.count)
            arrays = {array.name: file.read(array.name, start // size, -(-stop // size)) for array in schema}
            records = codec.decode(arrays)
            if sequences is not None:
                chosen = sequences.select(slice(span.first + start, span.first + stop))
                yield from _implausible(records, chosen.loss_mask, span.first + start)


def _implausible(records: Records, mask_ST: np.ndarray, first: int) -> Iterator[str]:
    place, mask_T = f"sequences {first} to {first + len(mask_ST)}", mask_ST.reshape(-1)
    unscored_T = np.append(~mask_T, np.ones(len(records) - len(mask_T), bool))  # the rest fills up the last chunk
    blank = Records.blank(records.layout, int(unscored_T.sum()))
    if not all(map(np.array_equal, records.rows(unscored_T).fields(), blank.fields())):
        yield f"{place}: positions outside the loss mask are not blank"
    try:
        check_records(records.rows(~unscored_T))
    except (ValueError, NumericsError) as error:
        yield f"{place}: {error}"


def _differing_copies(shards: Sequence[SealedShard]) -> Iterator[Problem]:
    """Copies of one shard that are not the same: to be known, because the first root wins."""
    first: dict[int, SealedShard] = {}
    for shard in shards:
        kept = first.setdefault(shard.span.index, shard)
        if kept.seal.xxh3_128 != shard.seal.xxh3_128:
            same_place = kept.seal.environment == shard.seal.environment
            why = "though both name the same environment" if same_place else "and was made in another environment"
            yield Problem(shard.path, f"differs from {kept.path} {why}", f"{kept.path} is used; remove one of the two")


def _unknown_files(folder: Path, plan: Plan) -> Iterator[Problem]:
    """Files in a cache folder that are not part of it. A shard without a seal is the rest of a stopped run: a note."""
    known = {PLAN_NAME, SEQUENCES_NAME, *_BESIDE_THE_PLAN}
    names = {span.shard_name for span in plan.shards} | {span.seal_name for span in plan.shards}
    known |= {f"{SHARDS_FOLDER}/{name}" for name in (*names, PASSED_OVER_NAME)}
    found = list(find_files(folder, "*"))
    there = set(found)
    for path in found:
        place = path.relative_to(folder)
        if not known & {str(place), place.parts[0]} and not path.name.startswith("."):
            yield Problem(path, "is not part of this cache", "Move it elsewhere")
        elif path.suffix == ".shard" and path.parent.name == SHARDS_FOLDER and seal_beside(path) not in there:
            say(f"note: {path}: has no seal, so it counts as absent; `sad-pipeline cache-teacher` writes it anew")
