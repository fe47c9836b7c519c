"""Sequences: rows of T+1 token ids, the unit of scoring, of reading and of training.

Position t of a row predicts the id at t+1, its label. Shapes: S sequences, T positions a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TRAIN, VALIDATION = 0, 1


@dataclass(frozen=True, slots=True)
class Sequences:
    """Packed rows of both splits; all TRAIN rows come first, then all VALIDATION rows.

    Neither attention nor positions may cross a true entry of `document_starts`.
    """

    input_ids: NDArray[np.uint32]  # [S, T+1]
    loss_mask: NDArray[np.bool_]  # [S, T] of the label at t+1: is it in the same document, and scored
    document_starts: NDArray[np.bool_]  # [S, T+1] where a document, or the padding, begins; [:, 0] is always true
    split: NDArray[np.uint8]  # [S] TRAIN or VALIDATION
    num_bytes: NDArray[np.int64]  # [S] UTF-8 bytes of the text of the scored labels

    def __post_init__(self) -> None:
        rows, width = self.input_ids.shape
        shapes = {
            "input_ids": (rows, width),
            "loss_mask": (rows, width - 1),
            "document_starts": (rows, width),
            "split": (rows,),
            "num_bytes": (rows,),
        }
        for name, shape in shapes.items():
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(f"Sequences.{name}: expected shape {shape}, found {found}")

    @property
    def num_sequences(self) -> int:
        """S, packed rows."""
        return int(self.input_ids.shape[0])

    @property
    def sequence_length(self) -> int:
        """T: positions a sequence, one less than its ids."""
        return int(self.input_ids.shape[1]) - 1

    @property
    def num_scored(self) -> int:
        """Positions whose label counts, over all sequences."""
        return int(np.count_nonzero(self.loss_mask))

    @property
    def scored_counts(self) -> NDArray[np.int64]:
        """[S] the same of each sequence."""
        return np.asarray(self.loss_mask.sum(axis=1), np.int64)

    def position_ids(self, rows: slice | NDArray[np.integer] = slice(None)) -> NDArray[np.int64]:
        """Place of each position in its own document, [n, T], restarting at 0 wherever one begins."""
        starts_nT = self.document_starts[rows, :-1]
        place_T = np.arange(self.sequence_length, dtype=np.int64)
        begun_nT = np.maximum.accumulate(np.where(starts_nT, place_T, 0), axis=1)
        return np.asarray(place_T - begun_nT, dtype=np.int64)

    def select(self, rows: slice | NDArray[np.integer]) -> Sequences:
        """The chosen rows, in the order given."""
        return Sequences(
            self.input_ids[rows],
            self.loss_mask[rows],
            self.document_starts[rows],
            self.split[rows],
            self.num_bytes[rows],
        )


class SequenceSource(Protocol):
    """Sequences by number, wherever they are: in memory, as `Sequences` are, or in a file."""

    @property
    def num_sequences(self) -> int:
        """S, packed rows."""

    @property
    def sequence_length(self) -> int:
        """T, positions a sequence."""

    @property
    def split(self) -> NDArray[np.uint8]:
        """[S] TRAIN or VALIDATION."""

    @property
    def num_bytes(self) -> NDArray[np.int64]:
        """[S] UTF-8 bytes of the text of the scored labels."""

    @property
    def scored_counts(self) -> NDArray[np.int64]:
        """[S] positions of each whose label counts."""

    def select(self, rows: slice | NDArray[np.integer]) -> Sequences:
        """The chosen rows, in the order given."""
