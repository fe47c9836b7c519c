"""Records of every architecture equal a direct forward of each document alone; grouping and masks change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import Records
from pipeline.cache.settings import BETAS
from pipeline.errors import NumericsError
from pipeline.models import CausalModel, Teacher
from pipeline.models.draws import draw_ids, uniforms
from pipeline.models.head import Head
from pipeline.pause import NoMemoryError
from tests import tiny
from tests.models.rows import dense_logp, lay_out, random_documents, spans_of

LAYOUT = RecordLayout.for_vocabulary(tiny.VOCAB_SIZE, 32, 6, 0.7)
SAME_RANK = 1e-5  # log-probabilities closer than this may change places by rounding


def _sequences(one_document: bool = False):
    documents = random_documents([9, 12, 4, 25, 3, 20, 2, 18])
    if one_document:
        return lay_out([[document] for document in documents])
    return lay_out([documents[:3], documents[3:4], documents[4:6], documents[6:7], documents[7:]])


def _teacher(model_type: str, layout: RecordLayout = LAYOUT, batch_size: int = 2, chunk: int = 7, **changes) -> Teacher:
    causal = CausalModel(tiny.make_model(model_type, **changes), layout.vocab_size)
    return Teacher(causal, layout, seed=3, batch_size=batch_size, chunk_positions=chunk)


def _assert_equals_direct_forward(records: Records, logp: np.ndarray, labels: np.ndarray, atol: float = 1e-5) -> None:
    """Every field of `records` against float64 log-probabilities [N, V]."""
    layout = records.layout
    ids = records.ids_TK.astype(np.int64)
    assert (np.diff(ids, axis=1) > 0).all()
    cutoff = np.sort(logp, axis=1)[:, -layout.head_size]
    outside = np.ones(logp.shape, dtype=bool)
    np.put_along_axis(outside, ids, False, axis=1)
    assert (np.take_along_axis(logp, ids, axis=1) >= cutoff[:, None] - SAME_RANK).all()
    assert (np.where(outside, logp, -np.inf).max(axis=1) <= cutoff + SAME_RANK).all()
    np.testing.assert_allclose(records.logprobs_TK, np.take_along_axis(logp, ids, axis=1), atol=atol)
    for column, beta in enumerate(BETAS):
        mass = np.where(outside, np.exp(beta * logp), 0).sum(axis=1)
        np.testing.assert_allclose(records.tail_TR[:, column], np.log(mass), atol=2 * atol)
    np.testing.assert_allclose(records.label_logprobs_T, logp[np.arange(len(labels)), labels], atol=atol)
    np.testing.assert_allclose(records.entropies_T, -(np.exp(logp) * logp).sum(axis=1), atol=2 * atol)
    drawn = records.draw_ids_TM.astype(np.int64)
    assert np.take_along_axis(outside, drawn, axis=1).all()
    np.testing.assert_allclose(records.draw_logprobs_TM, np.take_along_axis(logp, drawn, axis=1), atol=atol)


@pytest.mark.parametrize("model_type", tiny.ARCHITECTURES)
def test_records_equal_a_direct_forward_of_each_document_alone(model_type):
    teacher = _teacher(model_type)
    sequences = _sequences(one_document=not teacher.model.isolates_documents())
    length = sequences.sequence_length
    records = teacher.score(sequences, np.arange(sequences.num_sequences))
    assert len(records) == sequences.num_sequences * length
    for row in range(sequences.num_sequences):
        for span in spans_of(sequences, row):
            ids = sequences.input_ids[row, span.start : span.stop + 1].astype(np.int64)
            logp = dense_logp(teacher.model.model, ids[:-1]).numpy()
            found = records.rows(slice(row * length + span.start, row * length + span.stop))
            _assert_equals_direct_forward(found, logp, ids[1:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_on_cpu_give_float32_logits_of_the_half_model(dtype):
    causal = CausalModel(tiny.make_model().to(dtype), tiny.VOCAB_SIZE)
    sequences = _sequences()
    records = Teacher(causal, LAYOUT, 0, 1, 64).score(sequences, np.array([1]))
    ids = torch.from_numpy(sequences.input_ids[1:2].astype(np.int64))
    with torch.no_grad():
        hidden = causal.model.model(input_ids=ids[:, :-1]).last_hidden_state[0]
    logits = hidden.double() @ causal.model.lm_head.weight.detach().double().T
    _assert_equals_direct_forward(records, logits.log_softmax(dim=1).numpy(), ids[0, 1:].numpy())


def test_only_the_effective_vocabulary_is_normalised_over():
    layout = RecordLayout.for_vocabulary(tiny.VOCAB_SIZE - 40, 32, 6, 0.7)
    teacher = _teacher("llama", layout)
    sequences = _sequences()
    records = teacher.score(sequences, np.array([1]))
    logp = dense_logp(teacher.model.model, sequences.input_ids[1, :-1], layout.vocab_size).numpy()
    _assert_equals_direct_forward(records, logp, sequences.input_ids[1, 1:].astype(np.int64))


def test_masked_positions_stay_zero_and_change_nothing():
    sequences = _sequences()
    teacher = _teacher("llama")
    full = teacher.score(sequences, np.arange(5))
    fewer = lay_out([[]])  # same shapes, nothing scored
    assert not any(field.any() for field in teacher.score(fewer, np.array([0])).fields())
    sequences.loss_mask[:, ::2] = False
    half = teacher.score(sequences, np.arange(5))
    scored = sequences.loss_mask.reshape(-1)
    for name, found, expected in zip(Records.__slots__[1:], half.fields(), full.fields(), strict=True):
        assert not found[~scored].any(), name
        if found.dtype == np.uint32:
            assert np.array_equal(found[scored], expected[scored]), name
        else:
            np.testing.assert_allclose(found[scored], expected[scored], atol=1e-5, err_msg=name)


def test_calls_that_begin_on_a_batch_give_the_same_bytes():
    sequences = _sequences()
    teacher = _teacher("llama", batch_size=2)
    whole = teacher.score(sequences, np.arange(5))
    parts = Records.concatenate([teacher.score(sequences, rows) for rows in np.split(np.arange(5), [2, 4])])
    for found, expected in zip(parts.fields(), whole.fields(), strict=True):
        assert found.tobytes() == expected.tobytes()


def test_draws_do_not_depend_on_batch_or_chunk():
    sequences = _sequences()
    expected = _teacher("llama", batch_size=1, chunk=1).score(sequences, np.arange(5))
    for batch_size, chunk in ((2, 7), (5, 1000)):
        found = _teacher("llama", batch_size=batch_size, chunk=chunk).score(sequences, np.arange(5))
        assert np.array_equal(found.draw_ids_TM, expected.draw_ids_TM)
    last = _teacher("llama").score(sequences, np.array([4]))
    assert np.array_equal(last.draw_ids_TM, expected.draw_ids_TM[-sequences.sequence_length :])


def test_draws_use_the_numbers_of_their_own_seed_sequence_and_place():
    sequences, row = _sequences(), 1
    teacher = _teacher("llama")
    found = teacher.score(sequences, np.array([0, row])).rows(slice(sequences.sequence_length, None))
    logp = dense_logp(teacher.model.model, sequences.input_ids[row, :-1])
    tail = logp.scatter(1, torch.from_numpy(found.ids_TK.astype(np.int64)), -torch.inf)
    own = torch.from_numpy(uniforms(teacher.seed, row, sequences.sequence_length, LAYOUT.num_draws))
    expected = draw_ids((LAYOUT.draw_beta * tail).exp().float(), own)
    assert np.array_equal(found.draw_ids_TM, expected.numpy())


def test_a_head_of_the_whole_vocabulary_needs_no_tail():
    layout = RecordLayout.for_vocabulary(tiny.VOCAB_SIZE, 10**6, 6, 0.7)
    records = _teacher("gpt2", layout).score(_sequences(), np.array([1]))
    assert records.ids_TK.shape == (24, tiny.VOCAB_SIZE)
    assert np.isneginf(records.tail_TR).all()
    np.testing.assert_allclose(np.exp(records.logprobs_TK.astype(np.float64)).sum(axis=1), 1, atol=1e-6)


def test_logits_that_are_not_finite_name_positions_and_the_setting():
    teacher = _teacher("llama")
    teacher.model.model.half()
    with torch.no_grad():
        teacher.model.model.model.norm.weight.fill_(6e4)
    with pytest.raises(NumericsError, match=r"\(sequence 1, position 0\).*float16 overflows.*Set teacher\.dtype"):
        teacher.score(_sequences(), np.array([1]))


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (CausalModel, "hidden", torch.OutOfMemoryError("CUDA out of memory")),
        (Head, "logits_float32", RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")),
        (Head, "logits_float32", RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`")),
        (Teacher, "_tensor", torch.OutOfMemoryError("CUDA out of memory")),
    ],
)
def test_memory_that_runs_out_is_tried_once_more_and_then_is_a_pause(owner, name, error, monkeypatch):
    """Wherever it runs out: in the model, in the head, or while ids and places go to the card."""
    teacher, sequences = _teacher("llama"), _sequences()
    expected = teacher.score(sequences, np.arange(5))
    real, left, calls = getattr(owner, name), [0], [0]

    def scarce(*arguments):
        calls[0] += 1
        if left[0]:
            left[0] -= 1
            raise error
        return real(*arguments)

    monkeypatch.setattr(owner, name, scarce)
    teacher.score(sequences, np.arange(5))
    for failing in range(calls[0]):  # each call in turn fails once
        calls[0] = 0

        def scarce_at(*arguments, failing=failing):
            left[0] = int(calls[0] == failing)
            return scarce(*arguments)

        monkeypatch.setattr(owner, name, scarce_at)
        found = teacher.score(sequences, np.arange(5))
        assert all(a.tobytes() == b.tobytes() for a, b in zip(found.fields(), expected.fields(), strict=True))
    monkeypatch.setattr(owner, name, scarce)
    left[0] = 2
    with pytest.raises(NoMemoryError, match=r"nvidia-smi.*smaller cache\.batch_size") as stop:
        teacher.score(sequences, np.arange(5))
    assert stop.value.waits_for == "memory"
    assert left[0] == 0


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    teacher = _teacher("llama")
    calls = []

    def broken(self, ids, positions):
        calls.append(1)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(CausalModel, "hidden", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        teacher.score(_sequences(), np.array([0]))
    assert len(calls) == 1
