"""The loss on ragged heads: padding changes nothing, and the draws of `sampled` estimate full KD without bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import Records
from pipeline.distill import distillation_loss
from pipeline.distill.batching.batches import Batch
from pipeline.distill.loss.record_tensors import RecordTensors
from pipeline.distill.validation import score_against_cache
from pipeline.models.head import Head
from tests.cache.dense import records_of
from tests.distill import dense
from tests.distill.cases import D, relative_error

N, V = 12, 40


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, output matrix, labels, and the teacher's logits."""
    generator = torch.Generator().manual_seed(3)
    hidden_ND, weight_VD = (torch.randn(count, D, generator=generator).requires_grad_() for count in (N, V))
    labels_N = torch.randint(0, V, (N,), generator=generator)
    return hidden_ND, weight_VD, labels_N, 2.5 * torch.randn(N, V, generator=generator)


def compact(mass: float = 0.8) -> RecordLayout:
    return RecordLayout.for_vocabulary(V, 10, 5, 0.7, kind="compact", head_mass=mass)


def loss_and_gradients(records: Records, **settings: Any) -> tuple[Tensor, ...]:
    hidden_ND, weight_VD, labels_N, _ = problem()
    parts = distillation_loss(hidden_ND, Head(weight_VD), labels_N, records, chunk_positions=5, **settings)
    parts.loss.backward()
    assert parts.kd_N is not None
    return parts.kd_N, hidden_ND.grad, weight_VD.grad


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("objective", ["sampled_tail", "bucket", "subset"])
def test_a_ragged_head_against_the_dense_formula(objective: str, temperature: float) -> None:
    hidden_ND, weight_VD, labels_N, teacher_NV = problem()
    records = records_of(compact(), teacher_NV.double().numpy())
    assert len(set((records.logprobs_TK > -np.inf).sum(axis=1).tolist())) > 2  # heads of several sizes
    found = loss_and_gradients(records, temperature=temperature, objective=objective, ce_weight=0.3, kd_weight=0.7)

    logits_NV = hidden_ND.double() @ weight_VD.double().T
    rows = [dense_row(records, teacher_NV, logits_NV, n, temperature, objective) for n in range(N)]
    kd_N = torch.stack(rows)
    loss = (0.3 * dense.cross_entropy(logits_NV, labels_N) + 0.7 * temperature**2 * kd_N).mean()
    loss.backward()
    torch.testing.assert_close(found[0].double(), kd_N.detach(), rtol=1e-5, atol=2e-5)
    assert relative_error(found[1], hidden_ND.grad) < 2e-5
    assert relative_error(found[2], weight_VD.grad) < 2e-5


def dense_row(
    records: Records, teacher_NV: Tensor, logits_NV: Tensor, n: int, temperature: float, objective: str
) -> Tensor:
    """KD of one position by `tests.distill.dense`, whose heads are not ragged: the row's own, without its padding."""
    size = int((records.logprobs_TK[n] > -np.inf).sum())
    layout = RecordLayout(V, size, records.layout.num_draws)
    fields = list(records.rows(slice(n, n + 1)).fields())
    fields[0], fields[1] = fields[0][:, :size], fields[1][:, :size]
    teacher = dense.Teacher(teacher_NV[n : n + 1].double().log_softmax(1), Records(layout, *fields))
    return dense.kd(logits_NV[n : n + 1], teacher, temperature, objective)[0]


def test_more_padding_changes_no_bit() -> None:
    records = records_of(compact(), problem()[3].double().numpy())
    wide = RecordLayout.for_vocabulary(V, 20, 5, 0.7, kind="compact", head_mass=0.8)
    padded = Records.blank(wide, N)
    padded.ids_TK[:, :10], padded.logprobs_TK[:, :10] = records.ids_TK, records.logprobs_TK
    padded.ids_TK[:, 10:] = 2**32 - 1
    for name in ("tail_TR", "draw_ids_TM", "draw_logprobs_TM"):
        getattr(padded, name)[:] = getattr(records, name)
    for temperature in (1.0, 2.0):
        for one, other in zip(
            loss_and_gradients(records, temperature=temperature),
            loss_and_gradients(padded, temperature=temperature),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_bucket_of_sampled_is_the_cross_entropy_against_the_counts() -> None:
    hidden_ND, weight_VD, _, teacher_NV = problem()
    layout = RecordLayout.for_vocabulary(V, 0, 20, 1.0, kind="sampled")
    records = records_of(layout, teacher_NV.double().numpy())
    found = loss_and_gradients(records, objective="bucket", ce_weight=0.0, kd_weight=1.0)
    share_NV = torch.zeros(N, V, dtype=torch.float64)
    for n in range(N):
        real = records.logprobs_TK[n] > -np.inf
        share_NV[n, records.ids_TK[n, real].astype(np.int64)] = torch.from_numpy(
            np.exp(records.logprobs_TK[n, real].astype(np.float64))
        )
    logq_NV = (hidden_ND.double() @ weight_VD.double().T).log_softmax(1)
    kd_N = (torch.where(share_NV > 0, share_NV * share_NV.log(), 0.0) - share_NV * logq_NV).sum(1)
    kd_N.mean().backward()
    torch.testing.assert_close(found[0].double(), kd_N.detach(), rtol=1e-5, atol=1e-5)
    assert relative_error(found[1], hidden_ND.grad) < 1e-5
    assert relative_error(found[2], weight_VD.grad) < 1e-5


def test_sampled_is_full_kd_on_average() -> None:
    """The mean gradient of 400 draw sets nears full KD's as 1/√n: ten times as many, about a third of the error."""
    hidden_ND, weight_VD, _, teacher_NV = problem()
    layout = RecordLayout.for_vocabulary(V, 0, 50, 1.0, kind="sampled")
    logits_NV = hidden_ND.double() @ weight_VD.double().T
    dense.full_kl(logits_NV, teacher_NV.double().log_softmax(1), 1.0).mean().backward()
    gradients = [
        loss_and_gradients(
            records_of(layout, teacher_NV.double().numpy(), seed), objective="bucket", ce_weight=0.0, kd_weight=1.0
        )[2]
        for seed in range(400)
    ]
    few, many = torch.stack(gradients[:40]).mean(0), torch.stack(gradients).mean(0)
    assert relative_error(many, weight_VD.grad) < 0.03
    assert relative_error(many, weight_VD.grad) < 0.6 * relative_error(few, weight_VD.grad)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"objective": "subset"}, "estimate the whole KL"), ({"temperature": 2.0}, "temperature must be 1")],
)
def test_what_sampled_cannot_give_is_refused(settings: dict[str, Any], message: str) -> None:
    layout = RecordLayout.for_vocabulary(V, 0, 20, 1.0, kind="sampled")
    with pytest.raises(ValueError, match=message):
        loss_and_gradients(records_of(layout, problem()[3].double().numpy()), **settings)


def test_the_measured_kl_of_sampled_records_is_the_full_one_on_average() -> None:
    """Without the correction for the draws' noise, 20 draws of 40 ids would say about half a nat too much."""
    hidden_ND, weight_VD, labels_N, teacher_NV = problem()
    layout = RecordLayout.for_vocabulary(V, 0, 20, 1.0, kind="sampled")
    logp_NV = teacher_NV.double().log_softmax(1)
    full = dense.full_kl(hidden_ND.double() @ weight_VD.double().T, logp_NV, 1.0).mean().item()
    found = []
    for seed in range(400):
        records = RecordTensors.from_records(records_of(layout, logp_NV.numpy(), seed), "cpu")
        ids_1N = torch.zeros(1, N, dtype=torch.int64)
        batch = Batch(ids_1N, ids_1N, labels_N, torch.ones(N), records, N, None)
        parts = score_against_cache(hidden_ND.detach(), Head(weight_VD.detach()), batch, chunk_positions=5)
        assert parts.kd_N is not None
        found.append(parts.kd_N.mean().item())
    error = np.std(found) / np.sqrt(len(found))
    assert error < 0.02
    assert abs(np.mean(found) - full) < 5 * error
