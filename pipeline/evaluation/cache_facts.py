"""What a teacher cache holds, in the few figures and distributions a reader of the report wants."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.cache.layout import RecordLayout
from pipeline.cache.statistics import Statistics, temperatures_in
from pipeline.cache.teacher_cache import TeacherCache
from pipeline.data.sequences import VALIDATION


@dataclass(frozen=True, slots=True)
class ShardFact:
    """One shard of the plan."""

    index: int
    split: str
    num_sequences: int
    size_bytes: int | None  # None: not sealed yet
    num_scored: int


@dataclass(frozen=True, slots=True)
class Retained:
    """Share of the softened teacher's mass that lies in the head, over scored positions."""

    temperature: float
    mean: float
    median: float
    histogram: tuple[float, ...]  # counts over equal bins of [0, 1]


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """A cache, sealed wholly or in part. Means are over scored positions, in nats."""

    plan_hash: str
    layout: RecordLayout
    sequence_length: int
    num_sequences: int
    shards: tuple[ShardFact, ...]
    retained: tuple[Retained, ...]
    entropy_nats: float | None
    cross_entropy_nats: float | None  # of the teacher, on the labels
    environments: tuple[dict[str, str], ...]  # the different ones that shards were made in

    @property
    def sealed(self) -> tuple[ShardFact, ...]:
        """The shards that are complete and durable."""
        return tuple(shard for shard in self.shards if shard.size_bytes is not None)

    @property
    def complete(self) -> bool:
        """Whether every shard is sealed."""
        return len(self.sealed) == len(self.shards)

    @property
    def size_bytes(self) -> int:
        """Bytes of the sealed shards."""
        return sum(shard.size_bytes or 0 for shard in self.sealed)

    @property
    def num_scored(self) -> int:
        """Positions scored in the sealed shards."""
        return sum(shard.num_scored for shard in self.sealed)

    @property
    def bytes_per_token(self) -> float | None:
        """Bytes on disk a scored position."""
        return self.size_bytes / self.num_scored if self.num_scored else None


def facts_of(cache: TeacherCache) -> CacheFacts:
    """The figures of a cache, from its plan and its seals; no record is read."""
    statistics = cache.statistics
    seals = {index: shard.seal for index, shard in cache.shards.items()}
    return CacheFacts(
        plan_hash=cache.plan.hash,
        layout=cache.plan.layout,
        sequence_length=cache.plan.sequence_length,
        num_sequences=cache.plan.num_sequences,
        shards=tuple(
            ShardFact(
                index=span.index,
                split="validation" if span.split == VALIDATION else "train",
                num_sequences=span.count,
                size_bytes=seals[span.index].size_bytes if span.index in seals else None,
                num_scored=seals[span.index].num_scored if span.index in seals else 0,
            )
            for span in cache.plan.shards
        ),
        retained=tuple(_retained(statistics, temperature) for temperature in temperatures_in(statistics)),
        entropy_nats=statistics.get("entropy_mean_nats"),
        cross_entropy_nats=-statistics["label_logprob_mean_nats"] if seals else None,
        environments=tuple(
            dict(environment)
            for environment in sorted({tuple(sorted(seal.environment.items())) for seal in seals.values()})
        ),
    )


def _retained(statistics: Statistics, temperature: int) -> Retained:
    return Retained(
        temperature=temperature,
        mean=statistics[f"retained_mass_mean_tau_{temperature}"],
        median=statistics[f"retained_mass_median_tau_{temperature}"],
        histogram=tuple(statistics[f"retained_mass_histogram_tau_{temperature}"]),
    )
