"""Samples of text: how models go on from the same beginnings.

Tokens are drawn, not taken greedily, because small models caught in a greedy loop all look alike. The random numbers
depend on the seed alone and are the same for every model, so the texts differ by what the models believe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.cache import TeacherCache
from pipeline.console import warn_once
from pipeline.data.documents import Document, TokenizedDocument
from pipeline.data.tokenizer import Tokenizer
from pipeline.errors import ConfigError
from pipeline.evaluation.summary import TextSample
from pipeline.models import CausalModel

NUM_BEGINNINGS = 4
PROMPT_TOKENS = 48
TEMPERATURE = 0.7  # below 1: nearer to what a model holds likely
_SEED = 0


@dataclass(frozen=True, slots=True)
class Beginning:
    """A prompt as ids, and how its text really went on where that is known."""

    prompt_ids: tuple[int, ...]
    reference_ids: tuple[int, ...] | None = None


def written_beginnings(prompts: Sequence[str], tokenizer: Tokenizer) -> list[Beginning]:
    """The prompts a user wrote; ConfigError for one that holds no token."""
    beginnings = []
    for prompt in prompts:
        (encoded,) = (
            tokenizer.encode([Document("eval.sample_prompts", prompt)], read_control_tokens=True) if prompt else (None,)
        )
        if not isinstance(encoded, TokenizedDocument):
            raise ConfigError(f"eval.sample_prompts: expected some text, found {prompt!r}")
        beginnings.append(Beginning(tuple(encoded.ids[:-1].tolist())))  # without the end-of-text id
    return beginnings


def held_out_beginnings(
    cache: TeacherCache, indices: np.ndarray, num_tokens: int, count: int = NUM_BEGINNINGS
) -> list[Beginning]:
    """Beginnings from `count` of the sequences `indices`: of each, the stretch of one document that has most labels.

    Padding has none, however long it is, and sequences without any are left out.
    """
    indices = indices[cache.sequences.scored_counts[indices] > 0]
    if not len(indices):
        return []
    chosen = indices[np.unique(np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int))]
    sequences = cache.sequences.select(chosen)
    beginnings = []
    for ids, starts, mask in zip(sequences.input_ids, sequences.document_starts, sequences.loss_mask, strict=True):
        edges, before = np.append(np.flatnonzero(starts), len(ids)), np.append(0, np.cumsum(mask))
        richest = int(np.argmax(before[edges[1:] - 1] - before[edges[:-1]]))
        document = ids[edges[richest] : edges[richest + 1]].tolist()
        cut = min(PROMPT_TOKENS, max(1, len(document) // 2))
        beginnings.append(Beginning(tuple(document[:cut]), tuple(document[cut : cut + num_tokens])))
    return beginnings


@torch.no_grad()
def continue_texts(
    model: CausalModel, beginnings: Sequence[Beginning], num_tokens: int, tokenizer: Tokenizer
) -> list[str]:
    """What the model writes after each beginning: up to `num_tokens` tokens, or to its end of the text.

    A prompt too long to leave room within the model's positions loses its oldest tokens, for the model's eyes only.
    """
    if not beginnings or num_tokens == 0:
        return [""] * len(beginnings)
    if model.max_positions is not None and num_tokens >= model.max_positions:
        warn_once(f"samples are {model.max_positions - 1} tokens long: this model has {model.max_positions} positions")
        num_tokens = model.max_positions - 1
    model.model.eval()
    ids_BT, lengths_B = _padded_prompts(model, beginnings, num_tokens, tokenizer.end_of_text_id)
    rows_B = torch.arange(len(beginnings), device=model.device)
    generator = np.random.default_rng(_SEED)
    for step in range(num_tokens):
        seen = ids_BT.shape[1] - num_tokens + step
        positions_BT = torch.arange(seen, device=model.device).expand(len(beginnings), -1)
        hidden_BD = model.hidden(ids_BT[:, :seen], positions_BT)[rows_B, lengths_B + step - 1]
        logits_BV = model.head.logits_float32(hidden_BD)
        noise_BV = torch.from_numpy(generator.gumbel(size=logits_BV.shape)).to(logits_BV)
        ids_BT[rows_B, lengths_B + step] = (logits_BV / TEMPERATURE + noise_BV).argmax(dim=1)
    written = zip(ids_BT.tolist(), lengths_B.tolist(), strict=True)
    return [_text_of(ids[length : length + num_tokens], tokenizer) for ids, length in written]


def _padded_prompts(
    model: CausalModel, beginnings: Sequence[Beginning], num_tokens: int, padding_id: int
) -> tuple[Tensor, Tensor]:
    """Prompts to the left of room for `num_tokens` more, and their lengths.

    Rows of unequal length share a batch: what stands to the right of a token is never seen by it.
    """
    longest = max(len(beginning.prompt_ids) for beginning in beginnings)
    room = max(1, (model.max_positions or longest + num_tokens) - num_tokens)
    prompts = [beginning.prompt_ids[-room:] for beginning in beginnings]
    lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
    shape = (len(prompts), int(lengths_B.max()) + num_tokens)
    ids_BT = torch.full(shape, padding_id, device=model.device)
    for row, prompt in enumerate(prompts):
        ids_BT[row, : len(prompt)] = torch.tensor(prompt, device=model.device)
    return ids_BT, lengths_B


def samples_of(
    beginnings: Sequence[Beginning], continuations: Mapping[str, Sequence[str]], tokenizer: Tokenizer
) -> tuple[TextSample, ...]:
    """The beginnings as text, each with how it went on and how each named model went on."""
    return tuple(
        TextSample(
            prompt=tokenizer.decode(beginning.prompt_ids),
            reference=None if beginning.reference_ids is None else _text_of(beginning.reference_ids, tokenizer),
            continuations={name: texts[row] for name, texts in continuations.items()},
        )
        for row, beginning in enumerate(beginnings)
    )


def _text_of(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text up to its end."""
    whole = list(ids)
    end = whole.index(tokenizer.end_of_text_id) if tokenizer.end_of_text_id in whole else len(whole)
    return tokenizer.decode(whole[:end])
