"""Finding a cache: plans and sealed shards at any depth below one or several folders, matched by plan hash alone.

Notebook hosts mount earlier outputs wherever they like, so where a file lies says nothing. The first root wins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import files
from pipeline.cache.passed_over import PASSED_OVER_NAME, PassedOver, is_passed_over, read_passed_over
from pipeline.cache.plan import PLAN_NAME, SEQUENCES_NAME, TOKENIZER_FOLDER, Plan, ShardSpan, plan_differences
from pipeline.cache.seal import REPAIR, SEAL_SUFFIX, Seal
from pipeline.cache.told import PLAN_FIX
from pipeline.cache.unread import size_on_disk, unread_errors
from pipeline.console import warn_once
from pipeline.errors import ConfigError, DamagedDataError, IdentityError, IncompleteInputError, SadError, StorageError
from pipeline.folders import walk
from pipeline.links import refuse_links_out, tell_links


@dataclass(frozen=True, slots=True)
class SealedShard:
    """A shard with its seal, as found on disk."""

    span: ShardSpan
    seal: Seal
    path: Path
    """of the shard file"""

    def check_size(self) -> None:
        """The cheap part of verification: the shard is there and has the size its seal names.

        StorageError where the system does not say.
        """
        found = size_on_disk(self.path)
        if found != self.seal.size_bytes:
            state = "is missing" if found is None else f"has {found:,} bytes"
            raise DamagedDataError(
                f"{self.path}: {state}, its seal names {self.seal.size_bytes:,} bytes. Copy the file again if it "
                f"came from elsewhere. {REPAIR}"
            )


def find_plan(roots: Sequence[Path]) -> tuple[Plan, list[Path]]:
    """The one plan of a cache, and the cache folders below `roots` that hold it; IncompleteInputError if none does."""
    found = _find_plan(roots)
    if found is None:
        places = "; ".join(f"{root}{'' if root.is_dir() else ', which is not there'}" for root in roots)
        raise IncompleteInputError(
            f"{roots[0]}: no cache here (looked for {PLAN_NAME}, at any depth, in {places}). Check the path, or name "
            "the folder that holds one in cache.roots (--set 'cache.roots=[RUN]'), or make one with `sad-pipeline "
            "cache-teacher -c CONFIG`"
        )
    return found


def earlier_plan(folder: Path, roots: Sequence[Path] = ()) -> tuple[Plan, list[Path]] | None:
    """The plan that an earlier start left in `folder` or in other roots, with the cache folders that hold it.

    DamagedDataError where `folder` holds seals and no plan is left, or a root holds them and its plan cannot be read: a
    new one must not be made over them.
    """
    require_roots(roots)
    found = _find_plan([folder, *roots])
    if found is None and (seal := next(find_files(folder, f"*{SEAL_SUFFIX}"), None)) is not None:
        raise DamagedDataError(
            f"{seal}: is sealed, but the {PLAN_NAME} it belongs to is gone. Copy {PLAN_NAME} back to {folder}, or "
            "choose another place for a new cache with --run-dir."
        )
    return found


def _find_plan(roots: Sequence[Path]) -> tuple[Plan, list[Path]] | None:
    """The plan of the first root that holds any, and the folders of all roots that hold it.

    Two different plans in that root are an IdentityError. Plans of other caches in the other roots are passed over,
    but a root with nothing except other plans is an IdentityError too: whoever named it expects its shards.

    Files of the other roots that have a plan's name and are none, or damaged, are passed over too. But where such a
    root holds no plan besides, and only seals that are not of this cache, theirs is that plan, and its error is raised.
    """
    found: dict[Path, list[tuple[Path, Plan]]] = {root: [] for root in roots}
    unreadable: dict[Path, SadError] = {}
    for root in roots:
        for path, plan in plans_below(root):
            if isinstance(plan, Plan):
                found[root].append((path, plan))
            elif root == roots[0]:
                raise plan
            else:
                unreadable.setdefault(root, plan)
                warn_once(f"this plan is passed over. {_without(PLAN_FIX, plan)}")
    first = next((plans for plans in found.values() if plans), None)
    wanted = None if first is None else first[0][1].hash
    for root, error in unreadable.items():
        if not found[root] and _holds_only_other_seals(root, wanted):
            raise error
    if first is None:
        return None
    _refuse_two(first)
    for plans in found.values():
        if plans and all(other.hash != wanted for _, other in plans):
            _refuse_two([first[0], *plans])
    folders = [path.parent for plans in found.values() for path, other in plans if other.hash == wanted]
    return first[0][1], folders


def plans_below(root: Path) -> Iterator[tuple[Path, Plan | SadError]]:
    """Each plan.json below a folder: the plan that it holds, or why it holds none. A link that leads out is refused.

    StorageError for one that cannot be read now: it may be whole.
    """
    for path in find_files(root, PLAN_NAME):
        folder = path.parent
        with unread_errors(path):
            refuse_links_out(folder, [path, folder / SEQUENCES_NAME, folder / TOKENIZER_FOLDER])
        try:
            plan: Plan | SadError = Plan.load(path)
        except StorageError:
            raise
        except SadError as error:
            plan = error
        yield path, plan


def seals_below(root: Path) -> Iterator[tuple[Path, Seal | SadError]]:
    """Each seal below a folder, or why it is none or cannot be read now. A link that leads out is refused, of the shard
    beside it too."""
    for path in find_files(root, f"*{SEAL_SUFFIX}"):
        try:
            with unread_errors(path):
                refuse_links_out(root, [path, shard_of(path)])
            seal: Seal | SadError = Seal.load(path)
        except SadError as error:
            seal = error
        yield path, seal


def _holds_only_other_seals(root: Path, wanted: str | None) -> bool:
    """Whether there are seals below a folder, and none of them is known to be of the plan with this hash."""
    hashes = set[str]()
    for _, seal in seals_below(root):
        if isinstance(seal, StorageError):
            raise seal
        hashes.add(seal.plan_hash if isinstance(seal, Seal) else "")  # "": of which plan, nobody can tell
    return bool(hashes) and wanted not in hashes


def find_sealed(plan: Plan, roots: Sequence[Path]) -> dict[int, list[SealedShard]]:
    """Shard index -> its sealed copies, in the order of the roots. Seals of other plans are passed over.

    So are, except in the first root, seals that cannot be read and shards that do not have the size that theirs names:
    nobody here can mend those, and another root may have them whole, or they can be computed. So are copies that
    `repair` has listed as damaged.
    """
    damaged = find_passed_over(roots)
    wanted = plan.hash
    copies: dict[int, list[SealedShard]] = {}
    seen: set[Path] = set()
    for root, path, seal in ((folder, *found) for folder in roots for found in seals_below(folder)):
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        try:
            if isinstance(seal, SadError):
                raise seal
            if seal.plan_hash == wanted:
                span = seal.check_against(plan, path)
                shard = SealedShard(span, seal, path.with_name(span.shard_name))
                if root != roots[0]:
                    shard.check_size()
                    if is_passed_over(shard.path, damaged):
                        continue
                copies.setdefault(span.index, []).append(shard)
        except (DamagedDataError, IdentityError) as error:  # damaged, or of a later version
            if root == roots[0]:
                raise
            warn_once(f"this seal, and the shard beside it, are passed over. {_without(REPAIR, error)}")
    return dict(sorted(copies.items()))


def find_passed_over(roots: Sequence[Path]) -> PassedOver:
    """What `repair` has listed as damaged, in any of the roots."""
    paths = []
    for root in roots:
        for path in find_files(root, PASSED_OVER_NAME):
            with unread_errors(path):
                refuse_links_out(root, [path])
            paths.append(path)
    return read_passed_over(paths)


def require_roots(roots: Sequence[Path]) -> None:
    """ConfigError for a root that is not there: whoever named it expects shards in it."""
    for root in roots:
        if not root.is_dir():
            raise ConfigError(
                f"{root}: no such folder; expected one with parts of this cache. Mount it, or leave it out"
            )


def find_sequences(plan: Plan, folders: Sequence[Path]) -> Path:
    """The sequences of a cache, in the first of its folders that has them whole; of one copy nothing is asked here."""
    paths = [folder / SEQUENCES_NAME for folder in folders]
    there = [path for path in paths if size_on_disk(path) is not None] or paths[:1]
    if len(there) == 1:
        return there[0]
    for path in there:
        with unread_errors(path):
            if files.digest_file(path).xxh3_128 == plan.sequences_digest:
                return path
    return there[0]


def find_tokenizer(folders: Sequence[Path]) -> Path:
    """The teacher's tokenizer, in the first cache folder that has it."""
    for folder in folders:
        if (folder / TOKENIZER_FOLDER).is_dir():
            refuse_links_out(folder, (folder / TOKENIZER_FOLDER).iterdir())
            return folder / TOKENIZER_FOLDER
    raise IncompleteInputError(
        f"{', '.join(map(str, folders))}: expected the teacher's tokenizer in a folder named {TOKENIZER_FOLDER}. Copy "
        "it there from the cache it was made with."
    )


def shard_of(path: Path) -> Path:
    """The shard that a path speaks of: its own, or that of its seal."""
    return path.with_name(path.name.removesuffix(SEAL_SUFFIX).removesuffix(".shard") + ".shard")


def seal_beside(shard: Path) -> Path:
    """The seal of a shard, by name."""
    return shard.with_name(shard.name.removesuffix(".shard") + SEAL_SUFFIX)


def find_files(root: Path, pattern: str) -> Iterator[Path]:
    """Files below a folder by name, in a fixed order; hidden folders are left alone, an absent one holds nothing.

    StorageError for a folder that cannot be listed: it may hold the plan, or shards that took hours.
    """
    for folder, children, names in walk(root):
        children[:] = sorted(child for child in children if not child.startswith("."))
        tell_links(Path(folder), children)
        for name in sorted(names):
            if Path(name).match(pattern):
                yield Path(folder) / name


def _without(fix: str, error: SadError) -> str:
    """What an error says, but for a way to mend it that is none in a root that is only read."""
    return str(error).removesuffix(fix).rstrip()


def _refuse_two(plans: list[tuple[Path, Plan]]) -> None:
    path, plan = plans[0]
    for other_path, other in plans[1:]:
        if other.hash != plan.hash:
            raise IdentityError(
                "two different caches were named where one is meant; name the folder of just one:\n"
                f"  {path}: plan {plan.hash[:12]}\n  {other_path}: plan {other.hash[:12]}\n"
                "they differ in\n" + "\n".join(plan_differences(plan, other))
            )
