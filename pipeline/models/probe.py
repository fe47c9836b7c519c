"""How many sequences and positions the teacher takes at once, found on the first sequences before the plan is made.

The answer lives in the plan, because a product's rounding depends on its size: the same plan gives the same bytes.
On CPU it follows from sizes alone; on a card from how much memory a pass takes, never from a clock. So does how much
a shard holds: what a crash can lose is kept to about 10 minutes by the teacher's size, not by a measured rate, which
would give each start a plan of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import Records
from pipeline.cache.settings import CacheSettings
from pipeline.cache.writer import bytes_per_position
from pipeline.console import format_bytes, format_seconds, say
from pipeline.data.sequences import Sequences
from pipeline.errors import ConfigError, MachineError, NumericsError
from pipeline.models.causal import CausalModel
from pipeline.models.teacher import Teacher
from pipeline.pause import PausedError

_CPU_BATCH_POSITIONS = 4096  # enough rows for a product to run at full speed
_CPU_LOGITS_BYTES = 64 * 2**20
_CUDA_LOGITS_BYTES = 256 * 2**20
LOGITS_BUFFERS = 3
"""buffers of a chunk's float32 logits that scoring needs, about"""
CUDA_MEMORY_SHARE = 0.75
"""of a card's memory, that a batch found by the probe leaves the rest of"""
_CUDA_BATCH_POSITIONS = 16_384  # more fills no card better, and a pause waits for a whole batch
_MAX_CHUNK = 4096
MAX_SHARD_BYTES = 512e6
"""of one shard; larger ones are cut"""
_SHARD_MARGIN = 1.25  # the first sequences may pack better than the rest
_SHARD_SECONDS = 600.0
_FLOPS_PER_SECOND = {"cpu": 5e10, "cuda": 1e13}  # what two cores, or a card of the T4's class, really reach


@dataclass(frozen=True, slots=True)
class CaptureChoice:
    """Sizes of a capture, as the plan records them."""

    batch_size: int
    chunk_positions: int
    shard_positions: int
    bytes_per_scored: float = field(default=0.0, compare=False)
    """what a scored position of the first sequences takes on disk; not chosen, but measured"""


def probe_capture(
    model: CausalModel, sequences: Sequences, layout: RecordLayout, settings: CacheSettings
) -> CaptureChoice:
    """Choose what the settings leave open, and score the first sequences with it: an overflow shows here.

    On a card the widest batch there can be is scored too, because later sequences may be fuller than the first.
    ConfigError where the sequences are too long for the model, or its dtype overflows; MachineError where the card's
    memory does not hold a batch; the message names the setting.
    """
    model.check_length(sequences.sequence_length)
    on_card = model.device.type == "cuda"
    chunk = settings.chunk_positions or usual_chunk(layout.vocab_size, on_card)
    if settings.batch_size is not None:
        batch = settings.batch_size
        if on_card:
            _score_first(model, widest(sequences, min(batch, sequences.num_sequences)), layout, batch, chunk)
    elif on_card:
        batch = _largest_batch(model, sequences, layout, chunk)
    else:
        batch = max(1, _CPU_BATCH_POSITIONS // sequences.sequence_length)
    records = _score_first(model, sequences, layout, batch, chunk)
    loss_mask = sequences.loss_mask[: len(records) // sequences.sequence_length]
    position_bytes = bytes_per_position(records, loss_mask)
    shard = shard_positions_of(model, position_bytes, settings.shard_positions)
    scored_bytes = position_bytes * loss_mask.size / max(1, int(np.count_nonzero(loss_mask)))
    return CaptureChoice(batch, chunk, shard, scored_bytes)


def usual_chunk(vocab_size: int, on_card: bool) -> int:
    """Positions scored at once where the settings do not say."""
    return chunk_within(_CUDA_LOGITS_BYTES if on_card else _CPU_LOGITS_BYTES, vocab_size)


def chunk_within(logits_bytes: int, vocab_size: int) -> int:
    """The largest power of two of positions whose float32 logits fit, from 1 to 4,096."""
    fitting = max(1, logits_bytes // (4 * vocab_size))
    return min(_MAX_CHUNK, 1 << (fitting.bit_length() - 1))


def grow_batch(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest power of two up to `limit` that fits, doubling from 1; 0 where not even 1 does."""
    batch = 1
    while batch <= limit and fits(batch):
        batch *= 2
    return batch // 2


def widest(sequences: Sequences, batch: int) -> Sequences:
    """The batch that takes the most memory: every position scored, and documents to keep apart in every row.

    The ids are those that the first sequences have scored, one after another, so that the model reads real text.
    """
    first = sequences.select(slice(batch))
    real = first.input_ids[:, :-1][first.loss_mask]
    shape = (batch, sequences.sequence_length + 1)
    starts = np.zeros(shape, dtype=bool)
    starts[:, [0, shape[1] // 2]] = True
    return Sequences(
        np.resize(real if len(real) else first.input_ids, shape),
        np.ones((batch, sequences.sequence_length), dtype=bool),
        starts,
        np.resize(first.split, batch),
        np.zeros(batch, dtype=np.int64),
    )


def halve_until(positions: int, limit: float) -> int:
    """`positions`, halved until it is at most `limit`; at least 1."""
    while positions > max(1.0, limit):
        positions = -(-positions // 2)
    return positions


def shard_positions_of(model: CausalModel, position_bytes: float, wanted: int) -> int:
    """Positions a shard: what the settings say, or less where that is too many bytes or too long to lose."""
    position_flops = 2 * sum(parameter.numel() for parameter in model.model.parameters())
    by_time = _SHARD_SECONDS * _FLOPS_PER_SECOND[model.device.type] / position_flops
    found = halve_until(wanted, min(by_time, MAX_SHARD_BYTES / _SHARD_MARGIN / position_bytes))
    if found < wanted:
        say(
            f"note: a shard holds {found:,} positions instead of {wanted:,} (cache.shard_positions), so that it stays "
            f"within {format_bytes(MAX_SHARD_BYTES)} and about {format_seconds(_SHARD_SECONDS)} of work"
        )
    return found


def _largest_batch(model: CausalModel, sequences: Sequences, layout: RecordLayout, chunk: int) -> int:
    """Double the batch while the widest pass leaves some of the card's memory free."""
    device = model.device
    memory_bytes = torch.cuda.get_device_properties(device).total_memory * CUDA_MEMORY_SHARE

    def fits(batch: int) -> bool:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            _score_first(model, widest(sequences, batch), layout, batch, chunk)
        except MachineError:
            return False
        return torch.cuda.max_memory_reserved(device) <= memory_bytes

    limit = min(_CUDA_BATCH_POSITIONS // sequences.sequence_length, sequences.num_sequences)
    batch = grow_batch(max(1, limit), fits)
    torch.cuda.empty_cache()
    if not batch:
        raise MachineError(
            f"{torch.cuda.get_device_name(device)}: its memory does not hold this teacher with one sequence of "
            f"{sequences.sequence_length:,} positions in the {CUDA_MEMORY_SHARE:.0%} of it that a probe may fill. Try "
            "--set cache.batch_size=1, which may use all of it; else set data.sequence_length or cache.chunk_positions "
            "lower, or teacher.device to cpu."
        )
    return batch


def _score_first(model: CausalModel, sequences: Sequences, layout: RecordLayout, batch: int, chunk: int) -> Records:
    rows = np.arange(min(batch, sequences.num_sequences))
    try:
        return Teacher(model, layout, seed=0, batch_size=batch, chunk_positions=chunk).score(sequences, rows)
    except NumericsError as error:
        raise ConfigError(str(error)) from error
    except PausedError as error:
        raise MachineError(
            f"the card's memory does not hold {batch:,} sequences of {sequences.sequence_length:,} positions at once. "
            "Set cache.batch_size, cache.chunk_positions or data.sequence_length lower, or end other programs that use "
            "the card (nvidia-smi lists them)."
        ) from error
