"""The teacher at work: sequences in, records out.

Shapes: **B** sequences a forward pass, **T** positions, **n** positions scored at once, **D** model width,
**V** effective vocabulary, **M** draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cache.records import RecordLayout, Records
from pipeline.data.sequences import Sequences
from pipeline.errors import MachineError, NumericsError
from pipeline.models.causal import CausalModel, overflow_message
from pipeline.models.draws import uniforms
from pipeline.models.scoring import Scores, finite_rows, score

ArgumentsP = ParamSpec("ArgumentsP")
ResultT = TypeVar("ResultT")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Where the positions scored at once lie, and what scoring them needs."""

    row_n: NDArray[np.integer]
    t_n: NDArray[np.integer]
    labels_n: Tensor
    uniforms_nM: Tensor

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

    def score(self, sequences: Sequences, rows: NDArray[np.integer]) -> Records:
        """Records of the sequences numbered `rows`, one after another: [len(rows) · T] positions.

        Batches are cut from the first row on. The bytes of a shard are the same however it is divided into calls, as
        long as each call begins a whole number of batches after the shard does. Masked positions keep zeros.
        """
        records = Records.blank(self.layout, len(rows) * sequences.sequence_length)
        for start in range(0, len(rows), self.batch_size):
            batch_B = rows[start : start + self.batch_size]
            self._score_batch(sequences, batch_B, records, start * sequences.sequence_length)
        return records

    def _score_batch(self, sequences: Sequences, batch_B: NDArray[np.integer], records: Records, offset: int) -> None:
        """Fill `records` from `offset` on."""
        places_N = _scored_places(sequences, batch_B)
        if not len(places_N):
            return
        hidden_BTD = self._hidden(sequences, batch_B, width=int(places_N[:, 1].max()) + 1)
        uniforms_BTM = self._uniforms(sequences, batch_B)
        for start in range(0, len(places_N), self.chunk_positions):
            b_n, t_n = places_N[start : start + self.chunk_positions].T
            row_n = batch_B[b_n]
            labels_n = sequences.input_ids[row_n, t_n + 1].astype(np.int64)
            chunk = _Chunk(row_n, t_n, self._tensor(labels_n), self._tensor(uniforms_BTM[b_n, t_n]))
            hidden_nD = hidden_BTD[self._tensor(b_n), self._tensor(t_n)]
            scores = _with_retry(self._score_chunk, hidden_nD, chunk)
            _store(scores, records, offset + b_n * sequences.sequence_length + t_n)

    def _hidden(self, sequences: Sequences, batch_B: NDArray[np.integer], width: int) -> Tensor:
        """Hidden states of the first `width` columns: what follows the last scored position is not computed."""
        ids_BT = self._tensor(sequences.input_ids[batch_B, :width].astype(np.int64))
        positions_BT = self._tensor(sequences.position_ids(batch_B)[:, :width])
        with torch.no_grad():
            return _with_retry(self.model.hidden, ids_BT, positions_BT)

    def _score_chunk(self, hidden_nD: Tensor, chunk: _Chunk) -> Scores:
        logits_nV = self.model.head.logits_float32(hidden_nD)
        finite_n = finite_rows(logits_nV).cpu().numpy()
        if not finite_n.all():
            raise NumericsError(overflow_message(chunk.name_some(np.flatnonzero(~finite_n)), self.model.dtype))
        return score(logits_nV, chunk.labels_n, chunk.uniforms_nM, self.layout)

    def _uniforms(self, sequences: Sequences, batch_B: NDArray[np.integer]) -> NDArray[np.float64]:
        length, draws = sequences.sequence_length, self.layout.num_draws
        return np.stack([uniforms(self.seed, int(row), length, draws) for row in batch_B])

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.model.device)


def _scored_places(sequences: Sequences, batch_B: NDArray[np.integer]) -> NDArray[np.intp]:
    """(row of the batch, t) of every position that is scored, in order, [N, 2]."""
    return np.argwhere(sequences.loss_mask[batch_B])


def _store(scores: Scores, records: Records, positions_n: NDArray[np.integer]) -> None:
    records.ids_TK[positions_n] = scores.ids_nK.cpu().numpy()
    records.logprobs_TK[positions_n] = scores.logprobs_nK.cpu().numpy()
    records.tail_TR[positions_n] = scores.tail_nR.cpu().numpy()
    records.draw_ids_TM[positions_n] = scores.draw_ids_nM.cpu().numpy()
    records.draw_logprobs_TM[positions_n] = scores.draw_logprobs_nM.cpu().numpy()
    records.label_logprobs_T[positions_n] = scores.label_logprobs_n.cpu().numpy()
    records.entropies_T[positions_n] = scores.entropies_n.cpu().numpy()


def _with_retry(
    work: Callable[ArgumentsP, ResultT], *arguments: ArgumentsP.args, **keywords: ArgumentsP.kwargs
) -> ResultT:
    """Do the work; out of memory, clear and try once more at the same size, because another size is another plan."""
    try:
        return work(*arguments, **keywords)
    except torch.OutOfMemoryError:
        pass  # the failed frames hold tensors until this block is left
    torch.cuda.empty_cache()
    try:
        return work(*arguments, **keywords)
    except torch.OutOfMemoryError as error:
        raise MachineError(
            "the card's memory ran out twice in a row. What is sealed is safe: end other programs that use the card "
            "(nvidia-smi lists them) and run this command again, or begin a new run directory with a smaller "
            "cache.batch_size."
        ) from error
