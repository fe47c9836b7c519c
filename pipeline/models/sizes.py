"""How large a model is, from its config alone: made without numbers, so that neither weights nor memory are needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.models.causal import max_positions
from pipeline.models.loading import empty_model, make_model


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Counts of a model."""

    num_parameters: int
    """tied ones once"""
    vocab_size: int
    """rows of its output matrix, padding rows included"""
    matrix: int
    """elements of the output matrix, V·D"""
    max_positions: int | None = None
    """the longest sequence it is made for; None where its config does not say"""


def size_of_folder(folder: Path, trust_remote_code: bool = False) -> ModelSize:
    """Of the model whose config.json lies in a folder; ConfigError where it cannot be made of it."""
    return _count(empty_model(folder, trust_remote_code))


def size_of_block(block: dict[str, Any], vocab_size: int, where: str = "student.config") -> ModelSize:
    """Of a fresh model with so many ids, from the block that stands `where`; ConfigError as `make_model` has it."""
    with torch.device("meta"):
        return _count(make_model(block, vocab_size, end_of_text_id=0, seed=0, where=where))


def _count(model: Any) -> ModelSize:
    output = model.get_output_embeddings()
    matrix = 0 if output is None else output.weight.numel()
    rows = model.config.get_text_config().vocab_size if output is None else output.weight.shape[0]
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return ModelSize(num_parameters, int(rows), matrix, max_positions(model.config))
