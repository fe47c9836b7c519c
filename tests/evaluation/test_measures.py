"""Measures against a dense float64 computation on whole logits, which shares nothing with the library's own route."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import console
from pipeline.cache import TeacherCache
from pipeline.data.sequences import Sequences
from pipeline.errors import IncompleteInputError, MachineError, NumericsError
from pipeline.evaluation import measures
from pipeline.evaluation.measures import data_of, held_out_indices, measure_model, teacher_measures
from pipeline.models import CausalModel
from tests import tiny
from tests.evaluation.caches import NUM_TRAIN, NUM_VALIDATION, make_cache


@pytest.fixture(scope="module")
def teacher() -> CausalModel:
    """As sharp as a trained model, so that its likeliest id is well ahead of the next."""
    model = tiny.make_model("llama", seed=1, tie_word_embeddings=False)
    model.lm_head.weight.data *= 40
    return CausalModel(model, tiny.VOCAB_SIZE)


@pytest.fixture(scope="module")
def student() -> CausalModel:
    return CausalModel(tiny.make_model("gpt2", seed=2), tiny.VOCAB_SIZE)


@pytest.fixture(scope="module")
def cache(teacher: CausalModel, tmp_path_factory: pytest.TempPathFactory) -> TeacherCache:
    return make_cache(tmp_path_factory.mktemp("cache"), teacher)


def log_probs(model: CausalModel, sequences: Sequences) -> np.ndarray:
    """Float64 log-probabilities [scored, V], each document run through the model alone."""
    rows = []
    for ids, starts, mask in zip(sequences.input_ids, sequences.document_starts, sequences.loss_mask, strict=True):
        edges = [*np.flatnonzero(starts), len(ids)]
        for start, stop in itertools.pairwise(edges):
            alone = torch.tensor(ids[start:stop].astype(np.int64))[None]
            with torch.no_grad():
                logits = model.model(input_ids=alone, use_cache=False).logits[0].double()
            rows.append(logits.log_softmax(-1)[: len(mask) - start][mask[start:stop]].numpy())
    return np.concatenate(rows)


def dense(cache: TeacherCache, indices: np.ndarray, student: CausalModel, teacher: CausalModel) -> dict[str, Any]:
    sequences = cache.sequences.select(indices)
    labels = sequences.input_ids[:, 1:][sequences.loss_mask]
    log_q, log_p = log_probs(student, sequences), log_probs(teacher, sequences)
    p, q = np.exp(log_p), np.exp(log_q)
    bucket = []
    for n in range(len(p)):
        head = np.argsort(-p[n], kind="stable")[: cache.plan.layout.head_size]
        tails = [1 - x[n][head].sum() for x in (p, q)]
        bucket.append((p[n][head] * (log_p[n] - log_q[n])[head]).sum() + tails[0] * math.log(tails[0] / tails[1]))
    nats = -log_q[np.arange(len(labels)), labels]
    return {
        "ce": nats.mean(),
        "bits_per_byte": nats.sum() / math.log(2) / (labels < 256).sum(),
        "exact": (p * (log_p - log_q)).sum(axis=1).mean(),
        "bucket": np.mean(bucket),
        "agreement": (p.argmax(1) == q.argmax(1)).mean(),
        "teacher_ce": -log_p[np.arange(len(labels)), labels].mean(),
    }


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_measures_equal_the_dense_computation(
    cache: TeacherCache, student: CausalModel, teacher: CausalModel, batch_size: int
) -> None:
    indices = held_out_indices(cache)
    found = measure_model(student, cache, indices, batch_size, teacher, chunk_positions=7)
    expected = dense(cache, indices, student, teacher)
    assert found.cross_entropy_nats == pytest.approx(expected["ce"], abs=1e-5)
    assert found.perplexity == pytest.approx(math.exp(expected["ce"]), rel=1e-5)
    assert not found.perplexity_capped
    assert found.bits_per_byte == pytest.approx(expected["bits_per_byte"], abs=1e-5)
    assert found.kl_exact_nats == pytest.approx(expected["exact"], abs=1e-5)
    assert found.kl_bucket_nats == pytest.approx(expected["bucket"], abs=5e-3)  # the cache rounds log-probabilities
    assert found.top1_agreement == pytest.approx(expected["agreement"], abs=0.02)
    assert found.tokens_per_second is not None
    assert found.tokens_per_second > 0
    assert found.memory_kind == "process"
    assert found.peak_memory_bytes is not None
    assert found.peak_memory_bytes > 10 * 2**20


def room_for(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that runs out of memory with more sequences a pass."""
    real = measures.score_against_cache

    def score(hidden_ND: Any, head: Any, batch: Any, *rest: Any) -> Any:
        if len(batch.input_ids_BT) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(hidden_ND, head, batch, *rest)

    monkeypatch.setattr(measures, "score_against_cache", score)


def test_a_full_card_measures_the_same_in_smaller_batches(
    cache: TeacherCache, student: CausalModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console._said.clear()
    indices = held_out_indices(cache)
    expected = measure_model(student, cache, indices, 2)
    room_for(2, monkeypatch)
    found = measure_model(student, cache, indices, 7)
    for name in ("cross_entropy_nats", "kl_bucket_nats", "top1_agreement", "bits_per_byte"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-6), name
    said = capsys.readouterr().err.replace("\n", " ")
    assert "this model takes 4 sequences a pass (eval.batch_size)" in said
    assert "this model takes 2 sequences a pass (eval.batch_size)" in said


def test_a_card_without_room_for_one_sequence_is_told(
    cache: TeacherCache, student: CausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_for(0, monkeypatch)
    with pytest.raises(MachineError, match=r"with one sequence a pass\. Leave eval\.teacher out"):
        measure_model(student, cache, held_out_indices(cache), 2)


def test_lower_bound_is_below_the_exact_kl(cache: TeacherCache, student: CausalModel, teacher: CausalModel) -> None:
    found = measure_model(student, cache, held_out_indices(cache), 4, teacher)
    assert found.kl_bucket_nats is not None
    assert found.kl_exact_nats is not None
    assert 0 < found.kl_bucket_nats < found.kl_exact_nats


def test_the_teacher_against_itself(cache: TeacherCache, teacher: CausalModel) -> None:
    found = measure_model(teacher, cache, held_out_indices(cache), 4, teacher)
    assert found.kl_exact_nats == pytest.approx(0, abs=1e-6)
    assert found.kl_bucket_nats == pytest.approx(0, abs=1e-3)
    assert found.top1_agreement == pytest.approx(1.0, abs=0.02)  # the cache may tie two ids that are within a step


def test_without_a_teacher_there_is_no_exact_kl(cache: TeacherCache, student: CausalModel) -> None:
    assert measure_model(student, cache, held_out_indices(cache), 4).kl_exact_nats is None


def test_teacher_row_comes_from_the_cache(cache: TeacherCache, student: CausalModel, teacher: CausalModel) -> None:
    indices = held_out_indices(cache)
    found = teacher_measures(cache, indices, batch_size=2)
    assert found.cross_entropy_nats == pytest.approx(dense(cache, indices, student, teacher)["teacher_ce"], abs=5e-3)
    assert (found.kl_bucket_nats, found.top1_agreement, found.tokens_per_second) == (None, None, None)


def test_held_out_sequences_and_their_text(cache: TeacherCache) -> None:
    indices = held_out_indices(cache)
    assert indices.tolist() == list(range(NUM_TRAIN, NUM_TRAIN + NUM_VALIDATION))
    assert held_out_indices(cache, max_sequences=2).tolist() == [NUM_TRAIN, NUM_TRAIN + NUM_VALIDATION // 2]
    data, sequences = data_of(cache, indices), cache.sequences.select(slice(None))
    assert data.num_sequences == NUM_VALIDATION
    assert data.num_positions == sequences.loss_mask[NUM_TRAIN:].sum()
    assert data.num_bytes == sequences.num_bytes[NUM_TRAIN:].sum()


def test_no_sealed_validation_shard_is_refused(teacher: CausalModel, tmp_path: Path) -> None:
    with pytest.raises(IncompleteInputError, match="no validation shard is sealed"):
        held_out_indices(make_cache(tmp_path, teacher, seal=1))


def test_perplexity_is_capped_and_said(
    cache: TeacherCache, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_said", set())
    model = tiny.make_model("llama", seed=3, tie_word_embeddings=False)
    model.lm_head.weight.data *= 1e4
    found = measure_model(CausalModel(model, tiny.VOCAB_SIZE), cache, held_out_indices(cache), 4)
    assert found.perplexity_capped
    assert found.perplexity == pytest.approx(math.exp(20))
    assert found.cross_entropy_nats > 20
    assert "its cap" in capsys.readouterr().err


def test_a_diverged_model_is_refused_in_words(cache: TeacherCache) -> None:
    causal = CausalModel(tiny.make_model("llama", seed=3), tiny.VOCAB_SIZE)
    causal.model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(NumericsError, match="diverged"):
        measure_model(causal, cache, held_out_indices(cache), 4)
