"""Full distillation with the teacher in memory, against the dense formula and read in the order of a cache."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from pipeline.distill.batching.batches import BatchReader
from pipeline.distill.batching.live_records import LiveRecords, whole_teacher
from pipeline.distill.batching.order import DataOrder
from pipeline.distill.losses import distillation_loss
from pipeline.models import CausalModel, Head
from tests.models.rows import VOCAB_SIZE, dense_logp, lay_out, random_documents
from tests.tiny import make_model


def make_live() -> tuple[LiveRecords, CausalModel]:
    """Three sequences, documents of several lengths in them."""
    model = CausalModel(make_model(), VOCAB_SIZE, section="teacher")
    sequences = lay_out([random_documents([9, 8], seed) for seed in range(3)], sequence_length=16)
    return LiveRecords(whole_teacher(model, batch_size=2, chunk_positions=7), sequences), model


def test_records_are_all_log_probabilities() -> None:
    live, model = make_live()
    sequences, records = live.read(np.array([2, 0]))
    assert records.layout.head_size == records.layout.vocab_size == VOCAB_SIZE
    assert np.isneginf(records.tail_TR[sequences.loss_mask.reshape(-1)]).all()
    assert np.array_equal(sequences.input_ids[0], live.sequences.select(slice(None)).input_ids[2])
    first_document = live.sequences.select(slice(None)).input_ids[2, :9].astype(np.int64)
    expected = dense_logp(model.model, first_document)
    scored = np.flatnonzero(sequences.loss_mask[0][:8])
    assert len(scored) > 4
    np.testing.assert_allclose(records.logprobs_TK[scored], expected[scored].numpy(), rtol=1e-4, atol=1e-4)
    assert np.array_equal(records.ids_TK[scored[0]], np.arange(VOCAB_SIZE))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.3])
def test_loss_and_gradient_are_those_of_dense_distillation(temperature: float) -> None:
    live, model = make_live()
    sequences, records = live.read(np.array([0, 1, 2]))
    rows = np.flatnonzero(sequences.loss_mask.reshape(-1))
    labels_N = torch.from_numpy(sequences.input_ids[:, 1:].reshape(-1)[rows].astype(np.int64))
    logits_NV = torch.randn(len(rows), VOCAB_SIZE, generator=torch.Generator().manual_seed(3)).requires_grad_()
    parts = distillation_loss(
        logits_NV, Head(None, num_effective=VOCAB_SIZE), labels_N, records.rows(rows), temperature, "bucket", 0.1, 0.9
    )
    parts.loss.backward()

    with torch.no_grad():
        ids = torch.from_numpy(sequences.input_ids[:, :-1].astype(np.int64))
        positions = torch.from_numpy(sequences.position_ids(slice(None)))
        teacher_NV = model.head.logits_float32(model.hidden(ids, positions).flatten(0, 1))[torch.from_numpy(rows)]
    dense_NV = logits_NV.detach().double().requires_grad_()
    log_p_NV = (teacher_NV.double() / temperature).log_softmax(1)
    kl = (log_p_NV.exp() * (log_p_NV - (dense_NV / temperature).log_softmax(1))).sum(1)
    ce = -dense_NV.log_softmax(1).gather(1, labels_N[:, None])[:, 0]
    loss = (0.1 * ce + 0.9 * temperature**2 * kl).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(parts.loss.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
    torch.testing.assert_close(logits_NV.grad, dense_NV.grad.float(), rtol=1e-3, atol=1e-6)  # type: ignore[union-attr]


def test_the_reader_takes_them_in_the_order_of_a_cache() -> None:
    live, _ = make_live()
    order = DataOrder([(0, 3)], seed=1, window_shards=1, batch=2)
    reader = BatchReader(live, order, range(2), 1, torch.device("cpu"), with_records=True)
    for step, batches in enumerate(reader):
        indices = order.sequences_for_step(step)
        assert batches.num_scored == live.sequences.scored_counts[indices].sum()
        for index, batch in zip(indices, batches.batches, strict=True):
            expected = live.sequences.select(slice(None)).input_ids[index, :-1].astype(np.int64)
            assert np.array_equal(batch.input_ids_BT[0].numpy(), expected)
            _, records = copy.copy(live).read(np.array([index]))
            assert batch.records is not None
            assert np.array_equal(batch.records.logprobs_NK.numpy(), records.logprobs_TK)
