"""Sequences laid out by hand, and the dense float64 truth about one document."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from pipeline.data.sequences import TRAIN, Sequences
from tests.tiny import VOCAB_SIZE

SEQUENCE_LENGTH = 24
END_OF_TEXT = 256


def random_documents(lengths: list[int], seed: int = 0) -> list[np.ndarray]:
    """Documents of so many ids, each ending with the end-of-text id."""
    generator = np.random.default_rng(seed)
    return [np.append(generator.integers(0, 256, length - 1), END_OF_TEXT) for length in lengths]


def lay_out(rows: list[list[np.ndarray]], sequence_length: int = SEQUENCE_LENGTH) -> Sequences:
    """One row for each list of documents, which must fit; what is left of a row is padding."""
    ids = np.full((len(rows), sequence_length + 1), END_OF_TEXT, dtype=np.uint32)
    starts = np.zeros(ids.shape, dtype=bool)
    mask = np.zeros((len(rows), sequence_length), dtype=bool)
    for row, documents in enumerate(rows):
        at = 0
        for document in documents:
            ids[row, at : at + len(document)] = document
            starts[row, at] = True
            mask[row, at : at + len(document) - 1] = True
            at += len(document)
        if at <= sequence_length:
            starts[row, at] = True
    split = np.full(len(rows), TRAIN, dtype=np.uint8)
    return Sequences(ids, mask, starts, split, np.zeros(len(rows), dtype=np.int64))


def spans_of(sequences: Sequences, row: int) -> list[slice]:
    """The scored positions of each document of a row."""
    edges = [*np.flatnonzero(sequences.document_starts[row]).tolist(), sequences.sequence_length + 1]
    spans = [slice(start, stop - 1) for start, stop in itertools.pairwise(edges)]
    return [span for span in spans if sequences.loss_mask[row, span].any()]


def dense_logp(model: Any, ids: np.ndarray, num_effective: int = VOCAB_SIZE) -> torch.Tensor:
    """Float64 log-probabilities [T, V] of one document read alone by the whole model, in float32."""
    with torch.no_grad():
        logits = model.float()(input_ids=torch.from_numpy(ids.astype(np.int64))[None]).logits[0]
    return logits[:, :num_effective].double().log_softmax(dim=1)
