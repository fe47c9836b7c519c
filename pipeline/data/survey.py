"""How much text a config names: the beginning of it prepared as for a cache, the rest estimated from its size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.data.compressed import size_unpacked
from pipeline.data.documents import expected_documents
from pipeline.data.packing import Mode
from pipeline.data.preparation import prepare_sequences
from pipeline.data.report import DataReport
from pipeline.data.sequences import TRAIN, VALIDATION, Sequences
from pipeline.data.settings import DataSettings
from pipeline.data.source_files import source_files
from pipeline.data.tokenizer import Tokenizer
from pipeline.errors import ConfigError

COUNTED = "counted"
FROM_BYTES = "estimated from the bytes of its files"
FROM_DOCUMENTS = "estimated from its number of documents"
FROM_LIMIT = "data.max_tokens, which the text may not reach"
SAMPLE_TOKENS = 2**20
"""Training tokens: tokenised in seconds, and enough of a text to know the rest by"""


@dataclass(frozen=True, slots=True)
class Survey:
    """The size of a text in sequences of T positions, and its beginning as sequences."""

    sample: Sequences
    """all of the text where it is counted, else its beginning; of both splits"""
    num_train: int
    """sequences to train on that the whole text makes"""
    num_validation: int
    basis: str
    """how the two numbers came about: COUNTED, or FROM_ something"""
    tokens_per_position: float
    """of the sample to train on, as data.max_tokens counts them: without padding, and what begins a row"""

    @property
    def num_positions(self) -> int:
        """Of the whole text, masked ones included."""
        return (self.num_train + self.num_validation) * self.sample.sequence_length


def survey(settings: DataSettings, tokenizer: Tokenizer, packing: Mode) -> Survey:
    """Prepare the text up to SAMPLE_TOKENS training tokens; a text that ends before is counted exactly.

    A longer one is taken to go on as it begins: so many tokens a byte (files of text, which come in a seeded order), or
    so many a document (rows of tables). ConfigError where there is no usable text, or its size cannot be known.
    """
    wanted = settings.max_tokens
    limit = SAMPLE_TOKENS if wanted is None else min(wanted, SAMPLE_TOKENS)
    sample, report = prepare_sequences(settings.model_copy(update={"max_tokens": limit}), tokenizer, packing)
    num_train, num_validation = (int(np.count_nonzero(sample.split == split)) for split in (TRAIN, VALIDATION))
    density = report.train.tokens / max(1, num_train * sample.sequence_length)
    if limit == wanted or not report.max_tokens_reached:
        return Survey(sample, num_train, num_validation, COUNTED, density)
    factor, basis = _how_many_times(settings, report)
    if wanted is not None and wanted < factor * limit:
        factor, basis = wanted / limit, FROM_LIMIT if factor == np.inf else basis
    if factor == np.inf:
        separator = settings.document_separator
        unknown = f"data.dataset {settings.dataset}: does not say how many rows it has"
        if separator is not None:
            unknown = f"data.document_separator {separator!r}: how many documents it makes of these rows is not known"
        raise ConfigError(
            f"{unknown}, so what all of it would cost cannot be told. Set data.max_tokens (or data.max_documents) to "
            "what you mean to use."
        )
    return Survey(sample, round(factor * num_train), round(factor * num_validation), basis, density)


def _how_many_times(settings: DataSettings, report: DataReport) -> tuple[float, str]:
    """How often the sample goes into the whole text (infinite where nobody knows), and how that was found."""
    num_taken = max(1, report.documents_read - report.documents_beyond)
    num_documents = expected_documents(settings)
    whole = 1 + report.num_characters_beyond / max(1, report.num_characters)  # the sample ends inside a document
    by_number = np.inf if num_documents is None else max(1.0, whole * num_documents / num_taken)
    if settings.source not in ("stdlib", "text"):
        return by_number, FROM_DOCUMENTS
    sizes = [size_unpacked(path) for path in source_files(settings).values()]
    usable_bytes = sum(sizes) * (report.documents_kept / num_taken)
    if settings.document_separator is None:
        assert num_documents is not None, "files can be counted"
        usable_bytes *= num_documents / len(sizes)
    by_bytes = max(1.0, usable_bytes / max(1, report.num_bytes))
    return (by_bytes if settings.document_separator is None else min(by_bytes, by_number)), FROM_BYTES
