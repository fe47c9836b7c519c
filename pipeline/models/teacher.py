"""The teacher at work: sequences in, records out.

Shapes: **B** sequences a forward pass, **T** positions, **n** positions scored at once, **D** model width,
**V** effective vocabulary, **M** draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import Records
from pipeline.data.sequences import Sequences, SequenceSource
from pipeline.errors import NumericsError
from pipeline.models.causal import CausalModel, overflow_message
from pipeline.models.draws import uniforms
from pipeline.models.memory import retry_once
from pipeline.models.scores import Scores
from pipeline.models.scoring import finite_rows, score

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Where the positions scored at once lie, and what scoring them needs; not yet on the card."""

    row_n: NDArray[np.integer]
    b_n: NDArray[np.integer]
    t_n: NDArray[np.integer]
    labels_n: NDArray[np.int64]
    uniforms_nM: NDArray[np.float64]

    def name_some(self, places: NDArray[np.intp]) -> str:
        """How many places of the chunk these are, and where the first few lie."""
        shown = ", ".join(f"(sequence {self.row_n[i]}, position {self.t_n[i]})" for i in places[:_SHOWN])
        return f"{len(places):,} positions, such as {shown}"


@dataclass(frozen=True, slots=True)
class Teacher:
    """Scores sequences with one model, in batches and chunks whose sizes the plan fixes."""

    model: CausalModel
    layout: RecordLayout
    seed: int
    batch_size: int
    chunk_positions: int

    def __post_init__(self) -> None:
        assert self.model.num_effective == self.layout.vocab_size, "model and records speak of one vocabulary"

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.device

    def score(self, sequences: SequenceSource, rows: NDArray[np.integer]) -> Records:
        """Records of the sequences numbered `rows`, one after another: [len(rows) · T] positions.

        Batches are cut from the first row on. The bytes of a shard are the same however it is divided into calls, as
        long as each call begins a whole number of batches after the shard does. Masked positions keep zeros.
        PausedError where the card's memory runs out twice at one place.
        """
        records = Records.blank(self.layout, len(rows) * sequences.sequence_length)
        for start in range(0, len(rows), self.batch_size):
            batch_B = rows[start : start + self.batch_size]
            self._score_batch(sequences.select(batch_B), batch_B, records, start * sequences.sequence_length)
        return records

    def _score_batch(self, sequences: Sequences, batch_B: NDArray[np.integer], records: Records, offset: int) -> None:
        """Fill `records` from `offset` on with what is said of the sequences numbered `batch_B`."""
        places_N = np.argwhere(sequences.loss_mask)  # (row of the batch, t) of every position that is scored, in order
        if not len(places_N):
            return
        # Everything that takes memory on the card happens inside what is tried again.
        hidden_BTD = retry_once(self._hidden, sequences, width=int(places_N[:, 1].max()) + 1)
        uniforms_BTM = self._uniforms(sequences.sequence_length, batch_B)
        for start in range(0, len(places_N), self.chunk_positions):
            b_n, t_n = places_N[start : start + self.chunk_positions].T
            labels_n = sequences.input_ids[b_n, t_n + 1].astype(np.int64)
            chunk = _Chunk(batch_B[b_n], b_n, t_n, labels_n, uniforms_BTM[b_n, t_n])
            positions_n = offset + b_n * sequences.sequence_length + t_n
            retry_once(self._score_chunk, hidden_BTD, chunk, records, positions_n)

    def _hidden(self, sequences: Sequences, width: int) -> Tensor:
        """Hidden states of the first `width` columns: what follows the last scored position is not computed."""
        ids_BT = self._tensor(sequences.input_ids[:, :width].astype(np.int64))
        positions_BT = self._tensor(sequences.position_ids()[:, :width])
        with torch.no_grad():
            return self.model.hidden(ids_BT, positions_BT)

    def _score_chunk(
        self, hidden_BTD: Tensor, chunk: _Chunk, records: Records, positions_n: NDArray[np.integer]
    ) -> None:
        hidden_nD = hidden_BTD[self._tensor(chunk.b_n), self._tensor(chunk.t_n)]
        logits_nV = self.model.head.logits_float32(hidden_nD)
        finite_n = finite_rows(logits_nV).cpu().numpy()
        if not finite_n.all():
            where = chunk.name_some(np.flatnonzero(~finite_n))
            raise NumericsError(overflow_message(where, self.model.dtype, self.model.section))
        labels_n, uniforms_nM = self._tensor(chunk.labels_n), self._tensor(chunk.uniforms_nM)
        _store(score(logits_nV, labels_n, uniforms_nM, self.layout), records, positions_n)

    def _uniforms(self, length: int, batch_B: NDArray[np.integer]) -> NDArray[np.float64]:
        return np.stack([uniforms(self.seed, int(row), length, self.layout.num_draws) for row in batch_B])

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.model.device)


def _store(scores: Scores, records: Records, positions_n: NDArray[np.integer]) -> None:
    records.ids_TK[positions_n] = scores.ids_nK.cpu().numpy()
    records.logprobs_TK[positions_n] = scores.logprobs_nK.cpu().numpy()
    records.tail_TR[positions_n] = scores.tail_nR.cpu().numpy()
    records.draw_ids_TM[positions_n] = scores.draw_ids_nM.cpu().numpy()
    records.draw_logprobs_TM[positions_n] = scores.draw_logprobs_nM.cpu().numpy()
    records.label_logprobs_T[positions_n] = scores.label_logprobs_n.cpu().numpy()
    records.entropies_T[positions_n] = scores.entropies_n.cpu().numpy()
