"""Text to sequences: read, validate, tokenise, split, order, pack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from pipeline.console import Progress, warn_once
from pipeline.data.documents import Document, TokenizedDocument, Unreadable, expected_documents, read_documents
from pipeline.data.packing import PACKING_VERSION, STARTED_SINCE, Mode, pack
from pipeline.data.report import DataReport, SplitCounts
from pipeline.data.sequences import TRAIN, VALIDATION, Sequences
from pipeline.data.settings import DataSettings
from pipeline.data.splits import split_documents
from pipeline.data.texts import GROUP_CHARACTERS
from pipeline.data.token_limit import TokenLimit
from pipeline.data.tokenizer import Tokenizer
from pipeline.data.validation import fault_in_ids, usable_documents
from pipeline.errors import ConfigError
from pipeline.pause import PauseRequest

_DROPPED_SHARE_WORTH_SAYING = 0.1
_LOST_SHARE_WORTH_SAYING = 0.01


def prepare_sequences(
    settings: DataSettings,
    tokenizer: Tokenizer,
    packing: Mode,
    pause: PauseRequest | None = None,
    packing_version: int = PACKING_VERSION,
) -> tuple[Sequences, DataReport]:
    """Sequences of both splits and what was found on the way; depends on source, settings and tokenizer only.

    `packing_version` is that of a plan whose sequences are packed again.
    ConfigError where no usable document, or no scored position in one of the splits, is left; PausedError where
    `pause` is due, which is asked between batches of documents.
    """
    report = DataReport()
    documents = list(_tokenized_documents(settings, tokenizer, report, pause))
    if not documents:
        raise ConfigError(_nothing_usable(settings, report))
    report.document_tokens = _lengths(documents)
    parts = split_documents(documents, settings.validation_fraction, settings.seed, tokenizer.end_of_text_id)
    documents.clear()  # packing frees each document as it is placed
    report.train, report.validation = (_counts(part) for part in parts)
    start_ids = tokenizer.start_ids if packing_version >= STARTED_SINCE else []
    rows, num_rows, num_padding = pack(parts, settings.sequence_length, packing, tokenizer.end_of_text_id, start_ids)
    split = np.repeat(np.array([TRAIN, VALIDATION], np.uint8), num_rows)
    sequences = Sequences(rows.input_ids, rows.loss_mask, rows.document_starts, split, rows.num_bytes)
    for counts, mask_ST in zip((report.train, report.validation), np.split(rows.loss_mask, num_rows[:1]), strict=True):
        counts.sequences, counts.scored_positions = len(mask_ST), int(np.count_nonzero(mask_ST))
    report.padding_share = num_padding / rows.input_ids.size if rows.input_ids.size else 0.0
    _say_what_is_odd(report)
    _require_scored(report)
    return sequences, report


def _tokenized_documents(
    settings: DataSettings, tokenizer: Tokenizer, report: DataReport, pause: PauseRequest | None
) -> Iterator[TokenizedDocument]:
    """Usable documents as ids, until `max_tokens` training tokens are there; the text that goes beyond is cut there."""
    limit = TokenLimit(settings.max_tokens, settings.validation_fraction, tokenizer.end_of_text_id)
    by_tokens = settings.max_tokens is not None
    total = settings.max_tokens if settings.max_tokens is not None else expected_documents(settings) or 0
    num_told = 0  # documents, dropped ones as well
    with Progress("tokenising", total, "training tokens" if by_tokens else "documents") as progress:
        for document, encoded in _encoded(settings, tokenizer, report, progress, pause, limit):
            if not by_tokens:
                progress.advance(report.documents_read - num_told)
                num_told = report.documents_read
            reason = encoded.reason if isinstance(encoded, Unreadable) else fault_in_ids(encoded, tokenizer.vocab_size)
            if reason is not None:
                report.drop(document.key, reason)
                continue
            assert isinstance(encoded, TokenizedDocument)
            num_before, taken = limit.num_taken, limit.take(document, encoded)
            if taken is not None:
                report.keep(document, taken)
                yield taken
            if by_tokens:
                progress.advance(limit.num_taken - num_before)
            if limit.reached:
                report.max_tokens_reached = True
                return


def _encoded(
    settings: DataSettings,
    tokenizer: Tokenizer,
    report: DataReport,
    progress: Progress,
    pause: PauseRequest | None,
    limit: TokenLimit,
) -> Iterator[tuple[Document, TokenizedDocument | Unreadable]]:
    num_characters = 0

    def after_each_group(count: int) -> None:
        """Between two calls of the tokenizer, in the middle of a long document too."""
        nonlocal num_characters
        num_characters += count
        progress.advance(0, note=f"{num_characters / 1e6:,.0f} million characters")
        if pause is not None:
            pause.check()

    for batch in _batches(usable_documents(read_documents(settings), settings, report)):
        after_each_group(0)
        encoded = tokenizer.encode(batch, done=after_each_group, most_ids=limit.most_ids)
        yield from zip(batch, encoded, strict=True)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    num_characters = 0
    for document in documents:
        batch.append(document)
        num_characters += document.num_characters
        if num_characters >= GROUP_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _counts(documents: list[TokenizedDocument]) -> SplitCounts:
    return SplitCounts(len(documents), sum(len(document.ids) for document in documents))


def _lengths(documents: list[TokenizedDocument]) -> dict[str, int]:
    quantiles = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
    lengths = np.array([len(document.ids) for document in documents])
    found = np.quantile(lengths, list(quantiles.values()), method="lower")
    return {name: int(value) for name, value in zip(quantiles, found, strict=True)}


def _say_what_is_odd(report: DataReport) -> None:
    dropped, read = report.documents_dropped, report.documents_read
    if dropped > _DROPPED_SHARE_WORTH_SAYING * read:
        reasons = "\n".join(report.dropped_lines())
        warn_once(f"{dropped:,} of {read:,} documents ({dropped / read:.0%}) are dropped:\n{reasons}")
    if report.unknown_share > _LOST_SHARE_WORTH_SAYING:
        warn_once(
            f"{report.unknown_share:.1%} of the tokens are the unknown token: the tokenizer cannot spell this text"
        )
    if report.uncovered_share > _LOST_SHARE_WORTH_SAYING:
        warn_once(
            f"{report.uncovered_share:.1%} of the characters are lost: no token of this tokenizer spells them, and it "
            "has no unknown token to say so"
        )
    if report.num_control_ids:
        warn_once(
            f"{report.num_control_ids:,} control tokens that the text spells became the control tokens themselves; "
            "the teacher takes them for the end or the frame of a text. Clean the text if it only speaks of them."
        )
    for name, count in sorted(report.unused_columns.items()):
        warn_once(f"column {name!r} of {count:,} chats is not used: it is not a list of JSON objects")


def _nothing_usable(settings: DataSettings, report: DataReport) -> str:
    key, place = settings.place
    where = place or "the standard library"
    found = "\n".join(report.dropped_lines()) or "  nothing at all"
    columns = ", data.text_column (data.messages_column for chats)" if settings.source not in ("stdlib", "text") else ""
    return (
        f"data.source {settings.source} ({where}): expected documents to learn from; of {report.documents_read:,} read "
        f"none is usable:\n{found}\nCheck {key}{columns} and data.min_characters."
    )


def _require_scored(report: DataReport) -> None:
    for name, split in (("training", report.train), ("validation", report.validation)):
        if split.scored_positions == 0:
            raise ConfigError(
                f"the {name} split has no label that counts (documents: {split.documents}, tokens: {split.tokens}). "
                "Give more text, or another data.validation_fraction."
            )
