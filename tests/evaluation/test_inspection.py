"""inspect shows what the records hold, beside the dense distribution they were made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.tokenizer import Tokenizer
from pipeline.evaluation.inspection import describe_sequence
from pipeline.models import CausalModel
from tests import tiny
from tests.evaluation.caches import make_cache


def dense_logp(model: Any, ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """log p [T, V] in float64, one document at a time."""
    begins, parts = np.flatnonzero(starts[:-1]).tolist(), []
    for begin, end in zip(begins, [*begins[1:], len(ids) - 1], strict=True):
        with torch.no_grad():
            logits = model(torch.from_numpy(ids[begin:end].astype(np.int64))[None]).logits[0]
        parts.append(logits.double().log_softmax(dim=1))
    return torch.cat(parts).numpy()


def test_a_position_is_told_as_the_teacher_sees_it(tokenizer_folder: Path, tmp_path: Path) -> None:
    model = tiny.make_model("llama")
    with make_cache(tmp_path, CausalModel(model, tiny.VOCAB_SIZE), precision="lossless") as cache:
        tokenizer, sequence = Tokenizer.load(tokenizer_folder), cache[1]
        told = describe_sequence(cache, tokenizer, 1, num_positions=3, top=2)
        places = np.flatnonzero(sequence.loss_mask_T)[:3]
        logp_TV = dense_logp(model, sequence.input_ids, sequence.document_starts)
    assert [position["t"] for position in told["positions"]] == places.tolist()
    assert told["scored_positions"] == int(sequence.loss_mask_T.sum())
    for position, t in zip(told["positions"], places, strict=True):
        logp_V, label = logp_TV[t], int(sequence.input_ids[t + 1])
        assert (position["token"], position["label"]) == tuple(
            tokenizer.decode([int(token)]) for token in (sequence.input_ids[t], label)
        )
        assert position["label_probability"] == pytest.approx(np.exp(logp_V[label]), rel=2e-3)
        assert position["entropy_nats"] == pytest.approx(-(np.exp(logp_V) * logp_V).sum(), rel=2e-3)
        head = sequence.records.ids_TK[t]
        assert position["tail_mass"] == pytest.approx(1 - np.exp(logp_V[head]).sum(), abs=2e-3)
        best = head[np.argsort(-logp_V[head], kind="stable")][:2]
        shown = [choice["probability"] for choice in position["choices"]]
        assert len(shown) == 2
        assert shown == sorted(shown, reverse=True)
        assert shown == pytest.approx(np.exp(logp_V[best]), rel=1e-4)
