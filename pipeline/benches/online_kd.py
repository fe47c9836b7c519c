"""Distillation as it is done without a cache: the teacher in memory, whole logits of both, plain PyTorch.

    loss = ce_weight·CE + kd_weight·KL( p ‖ q ),     KL = Σ_V p·( log p − log q )     τ = 1, mean over positions

Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", equation 2 at temperature 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.distill.learner import Learner
from pipeline.models import CausalModel

_CE_WEIGHT, _KD_WEIGHT, _CLIP_NORM = 0.1, 0.9, 1.0  # the defaults of train


@dataclass(frozen=True, slots=True)
class OnlineKD:
    """Teacher, student and the student's optimizer, all in memory."""

    teacher: CausalModel
    student: CausalModel
    optimizer: torch.optim.Optimizer

    @classmethod
    def beside(cls, learner: Learner, teacher: CausalModel) -> OnlineKD:
        """With the student and the optimizer of a learner."""
        return cls(teacher, learner.causal, learner.optimizer)


def online_step(online: OnlineKD, input_ids: Tensor) -> float:
    """One whole optimizer step on [B, T+1] ids; returns the loss."""
    ids_BT, labels_N = input_ids[:, :-1], input_ids[:, 1:].reshape(-1)
    with torch.no_grad():
        teacher_logp_NV = online.teacher.model(ids_BT, use_cache=False).logits.flatten(0, 1).log_softmax(dim=1)
    online.student.model.train()
    logp_NV = online.student.model(ids_BT, use_cache=False).logits.flatten(0, 1).log_softmax(dim=1)
    kd = functional.kl_div(logp_NV, teacher_logp_NV, reduction="batchmean", log_target=True)
    loss = _CE_WEIGHT * functional.nll_loss(logp_NV, labels_N) + _KD_WEIGHT * kd
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(online.student.model.parameters(), _CLIP_NORM)
    online.optimizer.step()
    online.optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())
