"""What the `data` section of a config may say."""

from __future__ import annotations

from typing import Literal, Self

import pydantic

from pipeline.config import Place, Section, free, identity

Source = Literal["stdlib", "text", "jsonl", "parquet", "hub"]
Packing = Literal["auto", "packed", "one_document"]
_OF_HUB: tuple[str, ...] = ("dataset", "subset", "dataset_split", "revision")
_WITHOUT_COLUMNS = ("stdlib", "text")


class DataSettings(Section):
    """Where the text comes from, and how it becomes sequences."""

    source: Source = identity(doc="stdlib (the running interpreter's own source), text, jsonl, parquet or hub")
    path: str | None = free(None, "a file, a folder or a glob pattern, for text, jsonl and parquet", min_length=1)
    dataset: Place | None = identity(
        None, "hub: dataset id, such as HuggingFaceTB/smollm-corpus, or a folder that holds a dataset"
    )
    subset: str | None = identity(None, "hub: name of the subset (its config)")
    dataset_split: str = identity("train", "hub: which split of the dataset to read")
    revision: str | None = free(None, "hub: commit or tag; absent: the plan's commit, once there is a plan")
    document_separator: str | None = identity(
        None, "split texts into documents at this string, such as <|endoftext|>", min_length=1
    )
    text_column: str = identity("text", "column that holds the text")
    messages_column: str | None = identity(
        None,
        "column that holds chats (role and content, or from and value); loss on the assistant's tokens only; "
        "a template that asks for today's date is given 26 July 2024",
    )
    sequence_length: int = identity(512, "T: positions a sequence", ge=2)
    packing: Packing = identity("auto", "auto packs documents together where the teacher keeps them apart")
    validation_fraction: float = identity(0.02, "share of documents held out, by a hash of their key", gt=0, lt=0.5)
    max_documents: int | None = identity(None, "read at most this many documents", ge=1)
    max_tokens: int | None = identity(None, "keep documents until this many training tokens; the last is cut", ge=1)
    min_characters: int = identity(1, "shorter documents are dropped, and counted", ge=1)
    drop_duplicates: bool = identity(True, "drop documents whose text was seen before, and count them")
    seed: int = identity(0, "order of the documents before packing", ge=0, lt=2**63)

    @property
    def place(self) -> tuple[str, str | None]:
        """Where the text lies: the key that says so, and what it says; None for the standard library."""
        return ("data.dataset", self.dataset) if self.source == "hub" else ("data.path", self.path)

    def unused(self) -> dict[str, str]:
        """Keys that are set, and of which there is no use: what they say will not be done. Each with the reason."""
        names = ("path",) if self.source == "hub" else _OF_HUB
        names += ("text_column",) if self.source in _WITHOUT_COLUMNS else ()
        reasons = dict.fromkeys(names, f"data.source is {self.source}")
        if self.messages_column is not None:
            reasons["text_column"] = f"data.messages_column is {self.messages_column}"
        fields = type(self).model_fields
        return {name: reason for name, reason in reasons.items() if getattr(self, name) != fields[name].default}

    @pydantic.model_validator(mode="after")
    def _source_has_its_place(self) -> Self:
        if self.source == "stdlib" and self.path is not None:
            raise ValueError(
                f"source 'stdlib' reads the interpreter's own source, and not data.path ({self.path}): set data.source "
                "to text, jsonl or parquet, or leave data.path out"
            )
        if self.source in ("text", "jsonl", "parquet") and self.path is None:
            raise ValueError(f"source {self.source!r} needs data.path: a file, a folder or a glob pattern")
        if self.source == "hub" and self.dataset is None:
            raise ValueError("source 'hub' needs data.dataset: a dataset id such as HuggingFaceTB/smollm-corpus")
        if self.messages_column is not None and self.source in _WITHOUT_COLUMNS:
            raise ValueError(f"source {self.source!r} has no columns; chat messages come from jsonl, parquet or hub")
        if self.messages_column is not None and self.document_separator is not None:
            raise ValueError("data.document_separator splits texts, and data.messages_column names chats: set one only")
        return self
