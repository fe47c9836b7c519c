"""Models of known sizes with random weights, as good as trained ones to time: only their logits are made like those.

A random model's logits are nearly flat. Its final norm is scaled so that the mean entropy of the softmax is what small
trained models have on text, about 3 nats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.cache.layout import RecordLayout
from pipeline.cache.plan import Plan, cut_shards
from pipeline.cache.settings import DEFAULTS
from pipeline.data.sequences import TRAIN, VALIDATION, Sequences
from pipeline.errors import ConfigError
from pipeline.models import CausalModel
from pipeline.models.loading import make_model
from pipeline.models.teacher import Teacher


def _llama(vocab_size: int, width: int, inner: int, layers: int, heads: int, groups: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": _llama(49_152, 576, 1536, 30, 9, 3),
    "smollm2-360m": _llama(49_152, 960, 2560, 32, 15, 5),
    "llama-1b": _llama(128_256, 2048, 8192, 16, 32, 8),
    "thin": _llama(49_152, 64, 192, 1, 4, 4),
    "tiny": _llama(300, 32, 64, 2, 4, 2),
}
"""Name -> config block; `thin` has a real vocabulary and hardly a body, `tiny` is for tests"""
ENTROPY_NATS = 3.0
_SCALES = (1e-3, 1e3)
_HALVINGS = 40


def known_shape(name: str) -> str:
    """`name`, where SHAPES has it; else a ConfigError."""
    if name not in SHAPES:
        raise ConfigError(f"bench: unknown shape {name!r}; expected one of {', '.join(SHAPES)}")
    return name


def make_shape(name: str, dtype: torch.dtype, device: torch.device, seed: int = 0) -> CausalModel:
    """A random model of a named shape, in eval mode, whose logits spread like a trained one's."""
    block = SHAPES[name]
    model = make_model(block, block["vocab_size"], end_of_text_id=0, seed=seed).to(device=device, dtype=dtype).eval()
    causal = CausalModel(model, block["vocab_size"])
    spread_logits(causal)
    return causal


@torch.no_grad()
def spread_logits(causal: CausalModel, num_positions: int = 256) -> None:
    """Scale the final norm, and so the logits, until their mean entropy is ENTROPY_NATS."""
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(causal.num_effective, (1, num_positions), generator=generator).to(causal.device)
    positions_BT = torch.arange(num_positions, device=causal.device)[None]
    logits_nV = causal.head.logits_float32(causal.hidden(ids_BT, positions_BT)[0])
    norm = causal.model.base_model.norm.weight
    norm.mul_(_scale_for(lambda scale: mean_entropy(logits_nV * scale)))


def mean_entropy(logits_nV: Tensor) -> float:
    """Nats, mean over rows."""
    logp_nV = logits_nV.double().log_softmax(dim=1)
    return float(-(logp_nV.exp() * logp_nV).sum(dim=1).mean())


def _scale_for(entropy: Callable[[float], float]) -> float:
    """The scale at which a falling `entropy` is ENTROPY_NATS, by halving its logarithm's range."""
    low, high = np.log(_SCALES)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if entropy(float(np.exp(middle))) > ENTROPY_NATS else (low, middle)
    return float(np.exp(low))


def random_sequences(num_train: int, num_validation: int, sequence_length: int, vocab_size: int) -> Sequences:
    """Sequences of random ids, each a document of its own with every label scored."""
    num_sequences = num_train + num_validation
    starts = np.zeros((num_sequences, sequence_length + 1), dtype=bool)
    starts[:, 0] = True
    return Sequences(
        np.random.default_rng(0).integers(0, vocab_size, starts.shape, dtype=np.uint32),
        np.ones((num_sequences, sequence_length), dtype=bool),
        starts,
        np.repeat(np.array([TRAIN, VALIDATION], np.uint8), [num_train, num_validation]),
        np.full(num_sequences, sequence_length, np.int64),
    )


def plan_of(teacher: Teacher, sequences: Sequences, sequences_digest: str) -> Plan:
    """A plan with one shard a split; what it is made from has no name."""
    return Plan(
        identity={},
        layout=teacher.layout,
        sequence_length=sequences.sequence_length,
        num_sequences=sequences.num_sequences,
        sequences_digest=sequences_digest,
        shards=cut_shards(sequences.split, sequences.sequence_length, sequences.loss_mask.size),
        capture={"batch_size": teacher.batch_size, "chunk_positions": teacher.chunk_positions, "seed": teacher.seed},
    )


def layout_of(vocab_size: int) -> RecordLayout:
    """The record a config gets by default."""
    return RecordLayout.for_vocabulary(vocab_size, **DEFAULTS["topk"])
