"""The seal: written after its shard, it says that the shard is complete and what its bytes are. No clock, no host."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from pipeline import files
from pipeline.cache.plan import Plan, ShardSpan
from pipeline.cache.unread import unread_errors
from pipeline.errors import DamagedDataError, IdentityError

SEAL_FORMAT = 1
SEAL_SUFFIX = ".seal.json"
MAX_SEAL_BYTES = 2**20
_COUNTS = ("size_bytes", "first", "count", "num_positions", "num_scored")
_WORDS = ("shard", "xxh3_128", "plan_hash")
REPAIR = "Run `sad-pipeline repair` to remove it, then `sad-pipeline cache-teacher` to compute it again"


@dataclass(frozen=True, slots=True)
class Seal:
    """Size, hash and content of one sealed shard."""

    shard: str
    """file name of the shard, in the folder of the seal"""
    size_bytes: int
    xxh3_128: str
    first: int
    """number of its first sequence"""
    count: int
    """sequences in it"""
    num_positions: int
    num_scored: int
    """positions the loss mask lets through"""
    statistics: dict[str, Any]
    """see pipeline/cache/statistics.py"""
    plan_hash: str
    environment: dict[str, str]
    """versions and device class the shard was made with"""

    def save(self, path: Path) -> None:
        """Write the seal, whole or not at all; its shard must be durable by now."""
        content = asdict(self) | {"format": SEAL_FORMAT}
        files.write_json(path, content | {"digest": files.digest_json(content)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a seal and check its form and its own digest; DamagedDataError names what is wrong with it.

        StorageError where it cannot be read now.
        """
        try:
            with unread_errors(path):
                value = files.read_json(path, MAX_SEAL_BYTES)
        except DamagedDataError as error:
            raise DamagedDataError(f"{error}. {REPAIR}") from error
        digest = value.pop("digest", None)
        try:
            damaged = digest != files.digest_json(value)
        except RecursionError as error:
            raise DamagedDataError(f"{path}: is not a seal: it is nested too deeply. {REPAIR}") from error
        version = value.pop("format", None)
        if isinstance(version, int) and version > SEAL_FORMAT:
            raise IdentityError(
                f"{path}: seal format {version}, this version reads up to {SEAL_FORMAT}. Upgrade sad-pipeline."
            )
        problem = None if version == SEAL_FORMAT else f"format is {version!r}, not {SEAL_FORMAT}"
        problem = problem or _form_problem(value, {field.name for field in fields(cls)})
        if problem is None and value["shard"] != path.name.removesuffix(SEAL_SUFFIX) + ".shard":
            problem = f"it speaks of {value['shard']!r}"
        if problem is None and damaged:
            problem = f"its content does not have the digest {digest!r} it names"
        if problem is not None:
            raise DamagedDataError(f"{path}: is not a seal: {problem}. {REPAIR}")
        return cls(**value)

    def check_against(self, plan: Plan, path: Path) -> ShardSpan:
        """The span of `plan` that this seal, read from `path`, closes."""
        if self.plan_hash != plan.hash:
            raise IdentityError(
                f"{path}: belongs to the cache with plan {self.plan_hash[:12]}, not {plan.hash[:12]}. "
                "Keep the files of different caches in different folders"
            )
        span = plan.span_named(self.shard)
        if span is not None and (span.first, span.count) == (self.first, self.count):
            return span
        raise DamagedDataError(
            f"{path}: the plan has no shard {self.shard!r} of sequences {self.first} to {self.first + self.count}. "
            f"{REPAIR}"
        )


def _form_problem(value: dict[str, Any], expected: set[str]) -> str | None:
    if value.keys() != expected:
        return f"expected the fields {sorted(expected)}, found {sorted(value)}"
    for name in _COUNTS:
        if type(value[name]) is not int or value[name] < 0:
            return f"{name} must be a count, found {value[name]!r}"
    if any(type(value[name]) is not str for name in _WORDS):
        return f"{', '.join(_WORDS)} must be texts"
    if not isinstance(value["statistics"], dict) or not isinstance(value["environment"], dict):
        return "statistics and environment must be objects"
    return None
