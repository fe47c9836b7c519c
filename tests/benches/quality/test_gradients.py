"""The gradient of a whole loss, against autograd of the dense formula over a whole model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.benches.gradient_angle import angle_between
from pipeline.benches.quality.gradients import whole_gradient
from pipeline.distill.batching.live_records import LiveRecords, whole_teacher
from pipeline.distill.loss.routing import LEAST_TRUST
from pipeline.distill.settings import TrainSettings
from pipeline.distill.weighting.balance import MOST
from pipeline.models import CausalModel
from tests.models.rows import VOCAB_SIZE, lay_out, random_documents
from tests.tiny import make_model

INDICES = np.array([0, 2, 3])


def trusted(logp_NV: torch.Tensor, labels_N: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the router `trust` gives each position, over its mean."""
    entropy_N = -(logp_NV.exp() * logp_NV).sum(1)
    trust_N = torch.exp(-(-logp_NV[torch.arange(len(labels_N)), labels_N] - entropy_N).clamp_min(0.0))
    routes = {"ce": LEAST_TRUST + (1 - LEAST_TRUST) * (1 - trust_N), "kd": LEAST_TRUST + (1 - LEAST_TRUST) * trust_N}
    return {part: route_N / route_N.mean() for part, route_N in routes.items()}


@pytest.mark.parametrize(
    ("ce_weight", "temperature", "balance", "router"),
    [
        (1.0, 1.0, False, "uniform"),
        (0.0, 2.0, False, "uniform"),
        (0.3, 1.5, False, "trust"),
        (0.05, 1.5, True, "uniform"),
        (0.4, 1.2, True, "trust"),
    ],
)
def test_it_is_that_of_the_dense_loss(ce_weight: float, temperature: float, balance: bool, router: str) -> None:
    student = CausalModel(make_model(seed=1), VOCAB_SIZE, section="student")
    teacher = CausalModel(make_model(seed=2), VOCAB_SIZE, section="teacher")
    sequences = lay_out([random_documents([15], seed) for seed in range(4)], sequence_length=16)
    source = LiveRecords(whole_teacher(teacher, 2, 8), sequences)
    settings = TrainSettings(
        steps=5,
        batch_size=2,
        objective="bucket",
        ce_weight=ce_weight,
        kd_weight=1.0 - ce_weight,
        temperature={"start": temperature, "end": temperature},
        router=router,
        balance=balance,
        clip_norm=1e-6,  # would shrink it to nothing, were it left on
    )
    before = [parameter.detach().clone() for parameter in student.model.parameters()]
    found = whole_gradient(student, settings, 5, 2, source, INDICES)
    assert all(torch.equal(a, b) for a, b in zip(before, student.model.parameters(), strict=True))

    ids = torch.from_numpy(sequences.input_ids[INDICES].astype(np.int64))
    mask = torch.from_numpy(sequences.loss_mask[INDICES])
    with torch.no_grad():
        teacher_logits = teacher.model(ids[:, :-1]).logits[mask].double()
    logits = student.model(ids[:, :-1]).logits[mask].double()
    log_p = (teacher_logits / temperature).log_softmax(1)
    kl = (log_p.exp() * (log_p - (logits / temperature).log_softmax(1))).sum(1)
    ce = torch.nn.functional.cross_entropy(logits, ids[:, 1:][mask], reduction="none")
    routes = trusted(teacher_logits.log_softmax(1), ids[:, 1:][mask]) if router == "trust" else {}
    ce, kl = ce * routes.get("ce", 1.0), kl * routes.get("kd", 1.0)
    parts = {"ce": (ce_weight, ce.mean()), "kd": (1 - ce_weight, temperature**2 * kl.mean())}
    whole = sum(weight * float(size.detach()) for weight, size in parts.values())  # the weights sum to 1
    factors = {part: min(whole / float(size.detach()), MOST) if balance else 1.0 for part, (_, size) in parts.items()}
    loss = sum(weight * size * factors[part] for part, (weight, size) in parts.items())
    assert isinstance(loss, torch.Tensor)
    gradients = torch.autograd.grad(loss, list(student.model.parameters()))
    expected = torch.cat([gradient.reshape(-1) for gradient in gradients]).double()
    assert float((found - expected).norm() / expected.norm()) < 1e-4
    angle = angle_between(found, expected)
    assert (angle.degrees, angle.norm_ratio) == (pytest.approx(0, abs=0.01), pytest.approx(1, abs=1e-4))
