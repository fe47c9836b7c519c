"""From a few measured paces to tokens, bytes, hours and sessions: plain arithmetic."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.distill.settings import TrainSettings
from pipeline.models.shard_room import ROOM_FOR_A_SHARD
from pipeline.pricing.capture import CaptureProbe
from pipeline.pricing.memory import TrainingMemory
from pipeline.pricing.training import TrainingProbe

FROM_SEALS, FROM_PROBE = "the seals of this cache", "a few batches scored now"
_PLANNED = "this cache is planned and stays as it is; a smaller one needs a run directory of its own (--run-dir)"


@dataclass(frozen=True, slots=True)
class TextSize:
    """How much text there is, in tokens (positions, masked ones included)."""

    num_tokens: int
    num_train_sequences: int
    num_validation_sequences: int
    sequence_length: int
    basis: str
    """how it is known"""
    bytes_per_token: float
    """of the packed sequences, which lie beside the records"""
    counted_share: float = 1.0
    """of the tokens to train on, those that data.max_tokens counts"""


@dataclass(frozen=True, slots=True)
class CapturePrice:
    """What is left to do of the cache, and how large it gets."""

    tokens_left: int
    sealed_bytes: int
    bytes_per_token: float
    bytes_basis: str
    """FROM_SEALS or FROM_PROBE"""
    tokens_per_second: float | None
    """None where nothing is left to score"""
    hours: float
    sessions: int
    cache_bytes: int
    """of the finished cache, its packed sequences included"""
    elsewhere_bytes: int
    """of them, in roots that are only read: they take no room of this run"""
    batch_size: int
    chunk_positions: int
    cards: int
    """that score side by side, each at the pace of the probe"""

    @classmethod
    def of(
        cls,
        text: TextSize,
        tokens_left: int,
        sealed_bytes: int,
        probe: CaptureProbe | None,
        bytes_per_token: float,
        session_hours: float,
        sizes: tuple[int, int],
        cards: int = 1,
        elsewhere_bytes: int = 0,
    ) -> CapturePrice:
        """Price `tokens_left` at the pace of the probe; `sealed_bytes` are those of everything else.

        `sizes` are the sequences of a pass and the positions scored at once.
        """
        tokens_per_second = None if probe is None else cards / probe.seconds_per_position
        hours = 0.0 if tokens_per_second is None else tokens_left / tokens_per_second / 3600
        return cls(
            tokens_left=tokens_left,
            sealed_bytes=sealed_bytes,
            bytes_per_token=bytes_per_token,
            bytes_basis=FROM_SEALS if sealed_bytes else FROM_PROBE,
            tokens_per_second=tokens_per_second,
            hours=hours,
            sessions=math.ceil(hours / session_hours),
            cache_bytes=round(sealed_bytes + tokens_left * bytes_per_token + text.num_tokens * text.bytes_per_token),
            elsewhere_bytes=elsewhere_bytes,
            batch_size=sizes[0],
            chunk_positions=sizes[1],
            cards=cards,
        )

    @property
    def bytes_here(self) -> int:
        """Of the finished cache, what the run's own directory holds."""
        return self.cache_bytes - self.elsewhere_bytes


@dataclass(frozen=True, slots=True)
class DiskPrice:
    """How many tokens a disk holds, as configured and otherwise."""

    gigabytes: float
    tokens_that_fit: int
    fits: bool
    """whether all of the text does"""
    advice: tuple[str, ...]
    """settings to change, where it does not"""
    bytes_otherwise: dict[str, float]
    """`key: value` of another setting -> bytes a token with it; empty where a plan leaves no choice"""


@dataclass(frozen=True, slots=True)
class TrainingPrice:
    """What is left of the training, what it leaves on disk and takes of memory."""

    num_steps: int
    steps_done: int
    seconds_per_step: float
    tokens_per_second: float
    hours: float
    """steps and validations; checkpoints and reading the cache are not counted"""
    sessions: int
    validation_hours: float
    """of `hours`"""
    checkpoint_bytes: int
    checkpoints_bytes: int
    model_bytes: int
    memory: TrainingMemory
    cards: int
    """that share each step; what they take to add up their gradients is not counted"""

    @classmethod
    def of(
        cls,
        text: TextSize,
        settings: TrainSettings,
        num_steps: int,
        done: int,
        probe: TrainingProbe,
        session: float,
        cards: int = 1,
    ) -> TrainingPrice:
        """Price the steps from `done` on; `session` is in hours. The first of the `cards` validates alone."""
        num_validated = min(settings.validation_sequences, text.num_validation_sequences)
        num_batches = math.ceil(num_validated / settings.batch_size)
        num_validations = math.ceil((num_steps - done) / settings.evaluate_every)
        validating = num_validations * num_batches * probe.validation_seconds_per_batch
        seconds_per_step = probe.seconds_per_step / cards
        hours = ((num_steps - done) * seconds_per_step + validating) / 3600
        step_tokens = settings.batch_size * settings.accumulation * text.sequence_length
        return cls(
            num_steps=num_steps,
            steps_done=done,
            seconds_per_step=seconds_per_step,
            tokens_per_second=step_tokens / seconds_per_step,
            hours=hours,
            sessions=math.ceil(hours / session),
            validation_hours=validating / 3600,
            checkpoint_bytes=probe.checkpoint_bytes,
            checkpoints_bytes=probe.checkpoints_bytes,
            model_bytes=probe.model_bytes,
            memory=probe.memory,
            cards=cards,
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a config will cost from where its run stands."""

    plan: str | None
    """hash of the plan there is; None for a run that has none yet"""
    session_hours: float
    text: TextSize
    capture: CapturePrice
    disk: DiskPrice
    training: TrainingPrice
    environment: dict[str, str]
    """what it was measured on"""

    @property
    def run_bytes(self) -> int:
        """At most, of cache, checkpoints and finished student, all in one run directory."""
        return self.capture.bytes_here + self.training.checkpoints_bytes + self.training.model_bytes

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self) | {"run_bytes": self.run_bytes}


def price_disk(
    gigabytes: float,
    text: TextSize,
    capture: CapturePrice,
    probe: CaptureProbe | None,
    planned: bool,
    shard_positions: int,
) -> DiskPrice:
    """How many tokens fit, and where that is not all of the text, which settings of a new cache would make it fit.

    `probe` are records in the config's own precision; a plan that is there (`planned`) leaves no setting to change. A
    capture asks for more room than a shard has taken so far, before each: so much is left free at the end.
    """
    last_shard = min(capture.tokens_left, shard_positions) * capture.bytes_per_token
    room_bytes = max(0.0, gigabytes * 1e9 - (ROOM_FOR_A_SHARD - 1.0) * last_shard)
    fits = capture.bytes_here <= room_bytes
    in_parts = _in_parts(gigabytes, room_bytes, capture)
    if planned:
        free_bytes = room_bytes - (capture.bytes_here - capture.tokens_left * capture.bytes_per_token)
        done = text.num_tokens - capture.tokens_left
        tokens = min(text.num_tokens, max(0, done + int(free_bytes / capture.bytes_per_token)))
        return DiskPrice(gigabytes, tokens, fits, () if fits or not capture.tokens_left else (_PLANNED, in_parts), {})
    assert probe is not None, "without a plan something was scored"
    return DiskPrice(
        gigabytes=gigabytes,
        tokens_that_fit=_fitting(room_bytes, text, capture.bytes_per_token),
        fits=fits,
        advice=() if fits else (*_advice(gigabytes, room_bytes, text, probe), in_parts),
        bytes_otherwise=probe.bytes_otherwise,
    )


def _fitting(room_bytes: float, text: TextSize, bytes_per_token: float) -> int:
    return int(room_bytes / (bytes_per_token + text.bytes_per_token))


def _in_parts(gigabytes: float, room_bytes: float, capture: CapturePrice) -> str:
    """How all of the text fits after all, given more than one output."""
    num_parts = math.ceil(capture.bytes_here / max(1.0, room_bytes))
    return (
        f"or keep all of it in {num_parts:,} outputs of {gigabytes:g} GB (--max-output-gb), with the earlier ones in "
        "cache.roots"
    )


def _advice(gigabytes: float, room_bytes: float, text: TextSize, probe: CaptureProbe) -> Iterator[str]:
    """One line a setting that makes the cache smaller, with what would fit then."""
    own = probe.bytes_per_position
    train_share = text.num_train_sequences / (text.num_train_sequences + text.num_validation_sequences)
    max_tokens = int(_fitting(room_bytes, text, own) * train_share * text.counted_share)
    yield f"data.max_tokens: {max_tokens} fills {gigabytes:g} GB"
    for option, size in probe.bytes_otherwise.items():
        if size < own:
            tokens = _fitting(room_bytes, text, size)
            enough = ", which is all of the text" if tokens >= text.num_tokens else ""
            enough += "; right at temperature 1 alone" if option == "cache.kind: sampled" else ""
            yield f"{option} takes {size:,.1f} bytes a token, so that {tokens:,} tokens fit{enough}"
