"""Records of the kind `sampled` <-> the two byte arrays a shard keeps of them, a row of bytes for each chunk:

    ids      the N drawn ids, ascending and with repeats, as differences in planes of bytes [P, n, N]
    columns  −label log p and entropy, a byte each [2, n]: 16 times their square roots, finer where they are small

A repeated id is a difference of 0, which is shorter than a count beside each id. Counts are exact; label log p and
entropy are there for statistics and for choosing what to learn, not for the loss. A chunk holds whole sequences, as
many as make about 1,024 positions. Positions outside the loss mask are zeros, and read back as id 0 alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.byte_codec import CHUNK_POSITIONS
from pipeline.cache.ids import id_bytes, ids_from_planes, ids_to_planes, placed
from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import PADDING_ID, Records, check_records
from pipeline.cache.schema import Arrays, ArraySchema

_FACT_SCALE = 16
FACT_LIMIT_NATS = (255 / _FACT_SCALE) ** 2
"""Label log p and entropy beyond it are stored as it: 254 nats."""


@dataclass(frozen=True, slots=True)
class SampledCodec:
    """Drawn ids, packed by a zstd that searches long: 14 µs a position for 5 % of the bytes."""

    layout: RecordLayout
    sequence_length: int

    @property
    def chunk_sequences(self) -> int:
        """Sequences that are encoded and read together."""
        return max(1, CHUNK_POSITIONS // self.sequence_length)

    @property
    def _positions(self) -> int:
        return self.chunk_sequences * self.sequence_length

    def schema(self, num_sequences: int) -> tuple[ArraySchema, ...]:
        """The arrays of a shard of so many sequences."""
        chunks = -(-num_sequences // self.chunk_sequences)
        ids = id_bytes(self.layout.vocab_size) * self.layout.num_draws
        return (
            ArraySchema("ids", "uint8", (chunks, ids * self._positions), "slow-zstd"),
            ArraySchema("columns", "uint8", (chunks, 2 * self._positions), "fast-zstd"),
        )

    def encode(self, records: Records, loss_mask_ST: NDArray[np.bool_]) -> Arrays:
        """Arrays of S sequences, S·T records; NumericsError where a scored one holds NaN or an infinity."""
        mask_T = loss_mask_ST.reshape(-1)
        if len(records) != len(mask_T) or loss_mask_ST.shape[1] != self.sequence_length:
            raise ValueError(f"expected {len(mask_T)} records for mask {loss_mask_ST.shape}, found {len(records)}")
        scored = records.rows(mask_T)
        check_records(scored)
        chunks = -(-len(loss_mask_ST) // self.chunk_sequences)
        ids_nN = drawn_ids(scored)
        facts_2n = np.stack([-scored.label_logprobs_T, scored.entropies_T])
        steps_2n = np.rint(_FACT_SCALE * np.sqrt(np.clip(facts_2n, 0.0, FACT_LIMIT_NATS))).astype(np.uint8)
        return {
            "ids": placed(ids_to_planes(ids_nN, self.layout.vocab_size), mask_T, chunks, self._positions),
            "columns": placed(steps_2n[:, :, None], mask_T, chunks, self._positions),
        }

    def decode(self, arrays: Arrays) -> Records:
        """Records of all positions of the arrays, those that fill up the last chunk too; ValueError for nonsense."""
        chunks = range(len(arrays["ids"]))
        parts = [self._decode_chunk(arrays["ids"][chunk], arrays["columns"][chunk]) for chunk in chunks]
        return Records.concatenate(parts) if parts else Records.blank(self.layout, 0)

    def _decode_chunk(self, ids: NDArray[np.uint8], columns: NDArray[np.uint8]) -> Records:
        layout, positions = self.layout, self._positions
        planes = ids.reshape(id_bytes(layout.vocab_size), positions, layout.num_draws)
        facts_2n = np.square(columns.reshape(2, positions).astype(np.float32) / np.float32(_FACT_SCALE))
        return Records(
            layout,
            *unique_with_counts(ids_from_planes(planes, layout.vocab_size), layout.head_size),
            np.full((positions, layout.num_betas), -np.inf, np.float32),
            np.zeros((positions, 0), np.uint32),
            np.zeros((positions, 0), np.float32),
            -facts_2n[0],
            facts_2n[1],
        )


def fact_error_nats(facts: NDArray[np.floating]) -> NDArray[np.float64]:
    """Largest error of a label's −log p or an entropy: √x/16 nats and a little, an eighth of a nat at 4."""
    roots: NDArray[np.float64] = np.sqrt(np.clip(facts, 0.0, FACT_LIMIT_NATS).astype(np.float64))
    return roots / _FACT_SCALE + 1 / (4 * _FACT_SCALE**2)


def drawn_ids(records: Records) -> NDArray[np.uint32]:
    """The N ids of each position, ascending, with repeats; ValueError where the counts are not of N draws."""
    num_draws = records.layout.num_draws
    counts_nK = np.rint(np.exp(records.logprobs_TK.astype(np.float64)) * num_draws).astype(np.int64)
    if (counts_nK.sum(axis=1) != num_draws).any():
        wrong = int(counts_nK.sum(axis=1)[counts_nK.sum(axis=1) != num_draws][0])
        raise ValueError(f"records: expected counts of {num_draws} draws at every position, found {wrong}")
    return np.repeat(records.ids_TK.reshape(-1), counts_nK.reshape(-1)).reshape(-1, num_draws)


def unique_with_counts(ids_nN: NDArray[np.uint32], head_size: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Unique ids of ascending draws [n, K], and log(count/N) of each; padded."""
    num_rows, num_draws = ids_nN.shape
    first_nN = np.ones(ids_nN.shape, bool)
    np.not_equal(ids_nN[:, 1:], ids_nN[:, :-1], out=first_nN[:, 1:])
    places_X = np.flatnonzero(first_nN)
    counts_X = np.diff(places_X, append=ids_nN.size)
    present_nK = np.arange(head_size) < first_nN.sum(axis=1)[:, None]
    ids_nK = np.full((num_rows, head_size), PADDING_ID, np.uint32)
    ids_nK[present_nK] = ids_nN.reshape(-1)[places_X]
    logprobs_nK = np.full((num_rows, head_size), -np.inf, np.float32)
    logprobs_nK[present_nK] = np.log(np.arange(1, num_draws + 1) / num_draws).astype(np.float32)[counts_X - 1]
    return ids_nK, logprobs_nK
