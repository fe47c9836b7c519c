"""Records of the kind `sampled` <-> the two byte arrays a shard keeps of them, a row of bytes for each chunk:

    ids      the N drawn ids, ascending and with repeats, as differences in planes of bytes [P, n, N]
    columns  −label log p and entropy, a byte each [2, n]: 16 times their square roots, finer where they are small

A repeated id is a difference of 0, which is shorter than a count beside each id. Counts are exact. Of label log p and
entropy x nats are off by √x/16 + 1/1024 at most, an eighth of a nat at 4. The label's is used in the loss too
(`sampled_tail` takes its probability p from it): p is off by p·√x/16 at most, 0.027 near p = 0.6, which adds up to 6e-4
nat of KL at that position. Positions outside the loss mask read back as id 0 alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.chunked_codec import ChunkedCodec
from pipeline.cache.ids import id_bytes, ids_from_planes, ids_to_planes
from pipeline.cache.records import PADDING_ID, Records
from pipeline.cache.schema import Arrays, ArraySchema, Facts

_FACT_SCALE = 16
FACT_LIMIT_NATS = (255 / _FACT_SCALE) ** 2
"""Label log p and entropy beyond it are stored as it: 254 nats."""


@dataclass(frozen=True, slots=True)
class SampledCodec(ChunkedCodec):
    """Drawn ids, packed by a zstd that searches long: 14 µs a position for 5 % of the bytes."""

    def schema(self, num_sequences: int) -> tuple[ArraySchema, ...]:
        """The arrays of a shard of so many sequences."""
        chunks, positions = self.num_chunks(num_sequences), self.chunk_positions
        ids = id_bytes(self.layout.vocab_size) * self.layout.num_draws
        return (
            ArraySchema("ids", "uint8", (chunks, ids * positions), "slow-zstd"),
            ArraySchema("columns", "uint8", (chunks, 2 * positions), "fast-zstd"),
        )

    def encode(self, records: Records, loss_mask_ST: NDArray[np.bool_]) -> Arrays:
        """Arrays of S sequences, S·T records; NumericsError where a scored one holds NaN or an infinity."""
        scored = self.scored(records, loss_mask_ST)
        ids_nN = drawn_ids(scored)
        facts_2n = np.stack([-scored.label_logprobs_T, scored.entropies_T])
        steps_2n = np.rint(_FACT_SCALE * np.sqrt(np.clip(facts_2n, 0.0, FACT_LIMIT_NATS))).astype(np.uint8)
        return {
            "ids": self.placed(ids_to_planes(ids_nN, self.layout.vocab_size), loss_mask_ST),
            "columns": self.placed(steps_2n[:, :, None], loss_mask_ST),
        }

    def decode_chunk(self, rows: Arrays, out: Records) -> None:
        """Put the records of one chunk into `out`; id 0 alone outside the loss mask."""
        layout, positions = self.layout, self.chunk_positions
        planes = rows["ids"].reshape(id_bytes(layout.vocab_size), positions, layout.num_draws)
        ids_nN = ids_from_planes(planes, layout.vocab_size)
        out.ids_TK[...], out.logprobs_TK[...] = unique_with_counts(ids_nN, layout.head_size)
        out.tail_TR[...] = -np.inf
        out.label_logprobs_T[...], out.entropies_T[...] = self.facts_of_chunk(rows["columns"])

    def facts_of_chunk(self, columns: NDArray[np.uint8]) -> Facts:
        """Label log p and entropy of one chunk, from its row of `columns`."""
        facts_2n = np.square(columns.reshape(2, self.chunk_positions).astype(np.float32) / np.float32(_FACT_SCALE))
        return -facts_2n[0], facts_2n[1]


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
